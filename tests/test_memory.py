"""Batches over the device's memory: what fits is computed, what doesn't fails alone, later batches are smaller."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch

from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.memory import HalvingEncoder, largest_that_fits
from serve_app.errors import InputOverMemoryError
from serve_app.types import TokenIds

HIDDEN = 4


class SmallDevice:
    """Encodes an input to its first token id, for passes of at most `holds` tokens."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.passes: list[int] = []
        self.lowered: list[int] = []

    def encode(self, token_ids: list[TokenIds]) -> EncodedBatch:
        tokens = sum(map(len, token_ids))
        self.passes.append(tokens)
        if tokens > self.holds:
            raise torch.OutOfMemoryError(f"{tokens} tokens tried")
        return EncodedBatch(np.array([[ids[0]] * HIDDEN for ids in token_ids], np.float32))

    def encoder(self) -> HalvingEncoder:
        return HalvingEncoder(self.encode, hidden_size=HIDDEN, lower=self.lowered.append)


def inputs(*lengths: int) -> list[TokenIds]:
    """Inputs of these lengths; the n-th holds the token id n."""
    return [np.full(length, n, np.int32) for n, length in enumerate(lengths)]


def test_a_batch_that_fits_runs_once() -> None:
    device = SmallDevice(holds=100)
    batch = device.encoder()(inputs(50, 50))
    assert device.passes == [100]
    assert device.lowered == []
    assert batch.vectors[:, 0].tolist() == [0, 1]


def test_parts_that_fit_give_all_vectors_in_order() -> None:
    device = SmallDevice(holds=20)
    batch = device.encoder()(inputs(10, 10, 10, 10, 10, 10, 10))
    assert batch.failed == {}
    assert batch.vectors[:, 0].tolist() == list(range(7))
    assert device.lowered == [35, 15, 20]  # half of 70; half of the first 30, half of the last 40


def test_an_input_that_does_not_fit_alone_fails_alone() -> None:
    device = SmallDevice(holds=20)
    batch = device.encoder()(inputs(5, 5, 30, 5))
    assert list(batch.failed) == [2]
    assert batch.vectors[:, 0].tolist() == [0, 1, 0, 3]
    error = pickle.loads(pickle.dumps(batch.failed[2]))
    assert isinstance(error, InputOverMemoryError)
    assert (error.status, error.type, error.param, error.code) == (
        *(400, "invalid_request_error", "input", "input_over_memory"),
    )
    assert "30 tokens" in error.message
    assert "Send it in shorter pieces." in error.message


def test_what_was_reused_is_kept_and_the_budget_counts_costs() -> None:
    device = SmallDevice(holds=20)

    def encode(token_ids: list[TokenIds]) -> EncodedBatch:
        batch = device.encode(token_ids)
        return EncodedBatch(batch.vectors, reused=[len(ids) // 2 for ids in token_ids])

    def cost(ids: TokenIds, tenant: int) -> int:
        return len(ids) - len(ids) // 2

    encoder = HalvingEncoder(encode, hidden_size=HIDDEN, lower=device.lowered.append, cost=cost)
    assert encoder(inputs(8, 10, 30, 12)).reused == [4, 5, 0, 6]
    assert device.lowered == [15, 10]  # half of 4 + 5 + 15 + 6; half of 15 + 6


def test_the_budget_stays_above_the_longest_input_that_fitted() -> None:
    device = SmallDevice(holds=20)
    encoder = device.encoder()
    encoder(inputs(18))
    encoder(inputs(12, 12))
    assert device.lowered == [18]


def test_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = SmallDevice(holds=20).encoder()
    with caplog.at_level(logging.WARNING):
        encoder(inputs(15, 15))
        encoder(inputs(15, 15))
    assert ["batch.max_tokens" in record.message for record in caplog.records] == [True]


def test_other_errors_pass_through() -> None:
    def broken(_: list[TokenIds]) -> EncodedBatch:
        raise RuntimeError("illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        HalvingEncoder(broken, hidden_size=HIDDEN, lower=lambda _: None)(inputs(1, 1))


async def test_later_batches_keep_to_what_fits() -> None:
    device = SmallDevice(holds=40)

    def lower(tokens: int) -> None:
        batcher.max_batch_tokens = tokens

    batcher = Batcher(
        HalvingEncoder(device.encode, hidden_size=HIDDEN, lower=lower),
        hidden_size=HIDDEN,
        max_batch_tokens=64,
        max_batch_inputs=100,
    )
    first = await batcher.submit(inputs(*[8] * 8))
    assert first.errors == {}
    device.passes.clear()
    second = await batcher.submit(inputs(*[8] * 8))
    assert second.errors == {}
    assert second.vectors[:, 0].tolist() == list(range(8))
    assert device.passes == [32, 32]
    await batcher.close()


def test_the_largest_batch_that_fits_is_found() -> None:
    device = SmallDevice(holds=600)
    assert largest_that_fits(lambda tokens: device.encode(inputs(tokens)), 2000) == 500
    assert device.passes == [2000, 1000, 500]
    with pytest.raises(torch.OutOfMemoryError):
        largest_that_fits(lambda tokens: SmallDevice(holds=10).encode(inputs(tokens)), 2000)
