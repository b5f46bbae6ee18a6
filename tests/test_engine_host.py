"""The engine behind the batcher: what one bad input does to its batch-mates."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np

from serve_app.cluster.engine_host import encode_batch, launch_batch
from serve_app.engine.batcher import Batcher
from serve_app.engine.memory import HalvingEncoder
from serve_app.errors import EngineError
from tests.reference import assert_same, engine, expected, tokenizer


def test_an_input_that_the_engine_refuses_fails_alone() -> None:
    texts = ["one", "two"]
    first, second = tokenizer().encode_batch(texts)
    batch = encode_batch(engine(), [first, np.array([10**6], np.int32), second])
    assert list(batch.failed) == [1]
    assert isinstance(batch.failed[1], EngineError)
    assert_same(batch.vectors[[0, 2]], expected(texts))


def test_a_good_batch() -> None:
    batch = encode_batch(engine(), tokenizer().encode_batch(["one", "two"]))
    assert batch.failed == {}
    assert_same(batch.vectors, expected(["one", "two"]))


async def test_batches_that_are_launched_and_waited_for_apart() -> None:
    texts = ["one", "two", "three", "four", "five"]
    ids = tokenizer().encode_batch(texts)
    encoder = HalvingEncoder(partial(launch_batch, engine()), hidden_size=engine().hidden_size, lower=lambda _: None)
    batcher = Batcher(
        encoder,
        hidden_size=engine().hidden_size,
        max_batch_tokens=len(ids[0]) + len(ids[1]),
        max_batch_inputs=2,
        depth=2,
    )
    wrong = np.array([10**6], np.int32)
    answers = await asyncio.gather(*(batcher.submit([one, wrong]) for one in ids))
    assert_same(np.concatenate([answer.vectors[:1] for answer in answers]), expected(texts))
    assert [type(answer.errors[1]) for answer in answers] == [EngineError] * len(texts)
    assert [list(answer.errors) for answer in answers] == [[1]] * len(texts)
    await batcher.close()
