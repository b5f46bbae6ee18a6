"""A chunk at the replica: rows in order, errors by row, no vectors for a gateway of another model, and alone if it asks for it."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from serve_app.cluster.chunk import ChunkServer
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.errors import DeadlineExceededError, EngineDeadError, ReplicaOccupiedError, StaleReplicaError
from serve_app.types import ENVELOPE_VERSION, Envelope, Ping, TokenIds


def first_ids(inputs: list[TokenIds]) -> EncodedBatch:
    return EncodedBatch(np.array([[ids[0], len(ids)] for ids in inputs], np.float32))


def envelope(*inputs: list[int], time_left: list[float] | None = None, **fields: object) -> Envelope:
    n = len(inputs)
    return Envelope(
        ids=np.arange(n, dtype=np.uint64),
        token_ids=np.concatenate([np.array(ids, np.int32) for ids in inputs]),
        lengths=np.array([len(ids) for ids in inputs], np.int32),
        time_left=np.array(time_left or [np.inf] * n, np.float32),
        priority=np.zeros(n, np.uint8),
        output=np.zeros(n, np.uint8),
        **{"gateway": "g", "model": "m", **fields},
    )


@pytest.fixture
async def batcher():
    batcher = Batcher(first_ids, hidden_size=2, max_batch_tokens=64, max_batch_inputs=8)
    yield batcher
    await batcher.close()


@pytest.fixture
def chunks(batcher: Batcher) -> ChunkServer:
    return ChunkServer(batcher, "r", "m")


async def test_rows_come_back_in_order(chunks: ChunkServer) -> None:
    reply = await chunks.embed(envelope([5, 6, 7], [9], [3, 4]))
    assert reply.vectors.tolist() == [[5, 3], [9, 1], [3, 2]]
    assert (reply.status.replica, reply.errors) == ("r", {})


async def test_an_expired_input_fails_alone(chunks: ChunkServer) -> None:
    reply = await chunks.embed(envelope([5], [9], time_left=[-1.0, np.inf]))
    assert isinstance(reply.errors[0], DeadlineExceededError)
    assert reply.vectors.tolist() == [[0, 0], [9, 1]]


@pytest.mark.parametrize("fields", [{"model": "another"}, {"version": 0}])
async def test_messages_of_another_model_or_version_are_turned_away(
    chunks: ChunkServer, fields: dict[str, object]
) -> None:
    with pytest.raises(StaleReplicaError):
        await chunks.embed(envelope([5], **fields))
    with pytest.raises(StaleReplicaError):
        chunks.ping(Ping("g", **{"model": "m", "gateway_queued_tokens": 7, **fields}))  # type: ignore[arg-type]
    assert chunks.backlogs.total() == 0


async def test_one_chunk_at_a_time_may_be_alone_while_others_pass(batcher: Batcher) -> None:
    may_go_on = threading.Event()
    run = batcher._run
    batcher._run = lambda inputs: (may_go_on.wait(10), run(inputs))[1]
    chunks = ChunkServer(batcher, "r", "m")
    first = asyncio.create_task(chunks.embed(envelope([5], alone=True)))
    await asyncio.sleep(0)
    with pytest.raises(ReplicaOccupiedError):
        await chunks.embed(envelope([6], gateway="another", alone=True))
    other = asyncio.create_task(chunks.embed(envelope([7])))
    may_go_on.set()
    assert (await first).vectors.tolist() == [[5, 1]]
    assert (await other).vectors.tolist() == [[7, 1]]
    leaves = asyncio.create_task(chunks.embed(envelope([8], alone=True)))
    await asyncio.sleep(0)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert (await chunks.embed(envelope([9], alone=True))).vectors.tolist() == [[9, 1]]


async def test_a_ping_tells_and_hears(chunks: ChunkServer) -> None:
    await chunks.embed(envelope([5, 6], gateway_queued_tokens=30))
    status = chunks.ping(Ping("another", "m", gateway_queued_tokens=12))
    assert (status.replica, status.outstanding_tokens, status.gateways_queued_tokens) == ("r", 0, 30)
    assert status.tokens_per_second > 0
    assert chunks.ping(None).gateways_queued_tokens == 42
    assert Ping("g").version == ENVELOPE_VERSION


async def test_a_replica_without_engine_answers_no_ping(chunks: ChunkServer, batcher: Batcher) -> None:
    batcher._bury(RuntimeError("gone"))
    with pytest.raises(EngineDeadError):
        chunks.ping(None)
    with pytest.raises(EngineDeadError):
        await chunks.embed(envelope([5]))
