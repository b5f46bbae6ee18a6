"""The engine behind the batcher: what one bad input does to its batch-mates."""

from __future__ import annotations

import numpy as np

from serve_app.cluster.engine_host import encode_batch
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
