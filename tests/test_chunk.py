"""A chunk at the replica: rows in order, errors by row, and no vectors for a gateway of another model."""

from __future__ import annotations

import numpy as np
import pytest

from serve_app.cluster.chunk import embed_chunk
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.errors import DeadlineExceededError, StaleReplicaError
from serve_app.types import Envelope, TokenIds


def first_ids(inputs: list[TokenIds]) -> EncodedBatch:
    return EncodedBatch(np.array([[ids[0], len(ids)] for ids in inputs], np.float32))


def envelope(*inputs: list[int], time_left: list[float] | None = None, **fields: object) -> Envelope:
    n = len(inputs)
    return Envelope(
        gateway="g",
        ids=np.arange(n, dtype=np.uint64),
        token_ids=np.concatenate([np.array(ids, np.int32) for ids in inputs]),
        lengths=np.array([len(ids) for ids in inputs], np.int32),
        time_left=np.array(time_left or [np.inf] * n, np.float32),
        priority=np.zeros(n, np.uint8),
        output=np.zeros(n, np.uint8),
        **{"model": "m", **fields},
    )


@pytest.fixture
async def batcher():
    batcher = Batcher(first_ids, hidden_size=2, max_batch_tokens=64, max_batch_inputs=8)
    yield batcher
    await batcher.close()


async def test_rows_come_back_in_order(batcher: Batcher) -> None:
    reply = await embed_chunk(batcher, "r", "m", envelope([5, 6, 7], [9], [3, 4]))
    assert reply.vectors.tolist() == [[5, 3], [9, 1], [3, 2]]
    assert (reply.status.replica, reply.errors) == ("r", {})


async def test_an_expired_input_fails_alone(batcher: Batcher) -> None:
    reply = await embed_chunk(batcher, "r", "m", envelope([5], [9], time_left=[-1.0, np.inf]))
    assert isinstance(reply.errors[0], DeadlineExceededError)
    assert reply.vectors.tolist() == [[0, 0], [9, 1]]


@pytest.mark.parametrize("fields", [{"model": "another"}, {"version": 0}])
async def test_chunks_of_another_model_or_version_are_turned_away(batcher: Batcher, fields: dict[str, object]) -> None:
    with pytest.raises(StaleReplicaError):
        await embed_chunk(batcher, "r", "m", envelope([5], **fields))
