"""Small batches in prepared sizes: the arithmetic of padding, and graphs with a direct call in place of the replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor

from serve_app.engine import attention_check
from serve_app.engine.buckets import BUCKETS, INPUTS, TOKENS, Bucket, bucket_of
from serve_app.engine.engine import Engine
from serve_app.engine.graphs import Graphs, reserved
from serve_app.engine.model import Model
from serve_app.engine.random_weights import random_weights
from tests.checkpoints import SHAPES, random_ids
from tests.test_attention import attend

CPU = torch.device("cpu")
FEW = tuple(bucket for bucket in BUCKETS if bucket.tokens in (16, 64, 128))


def test_every_small_batch_has_a_bucket_that_padding_fills() -> None:
    for inputs in range(1, max(INPUTS)):
        for tokens in range(inputs, max(TOKENS) - max(INPUTS) + 1):
            bucket = bucket_of(tokens, inputs)
            assert bucket is not None
            ids = [np.ones(1, np.int32)] * (inputs - 1) + [np.ones(tokens - inputs + 1, np.int32)]
            padded = bucket.pad(ids)
            assert padded[:inputs] == ids
            assert len(padded) == bucket.inputs
            assert sum(map(len, padded)) == bucket.tokens
            assert min(map(len, padded)) >= 1


@pytest.mark.parametrize(
    ("tokens", "inputs", "expected"),
    [
        (16, 1, Bucket(16, 1)),  # fits as it is
        (15, 1, Bucket(16, 2)),  # the token more is an input more
        (16, 2, Bucket(16, 2)),
        (16, 3, Bucket(32, 8)),  # five inputs more need five tokens more
        (12, 3, Bucket(32, 8)),
        (11, 3, Bucket(16, 8)),
        (512, 1, Bucket(512, 1)),
        (511, 1, Bucket(512, 2)),
        (513, 1, None),
        (400, 33, None),
    ],
)
def test_the_smallest_bucket_is_taken(tokens: int, inputs: int, expected: Bucket | None) -> None:
    assert bucket_of(tokens, inputs) == expected


def kernel(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False, num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    """As torch's, which takes upper bounds of the lengths."""
    assert max_q >= int(cu_seq_q.diff().max())
    assert max_k >= int(cu_seq_k.diff().max())
    return attend(query, key, value, cu_seq_q, cu_seq_k, window_size == (-1, 0))


class Repeated:
    """Instead of recording, calls again what wrote to the same memory."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        vectors = run().clone()

        def replay() -> None:
            self.replays += 1
            vectors.copy_(run())

        return replay, vectors


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention_check, "varlen_runs_on", lambda *_: True)
    return Model(SHAPES["demo"], random_weights(SHAPES["demo"], CPU, torch.float32))


@torch.inference_mode()
def test_padding_changes_nothing(model: Model) -> None:
    capture = Repeated()
    graphs = Graphs(model, capture)
    graphs.prepare(FEW)
    assert len(graphs) == len(FEW)
    recorded = capture.replays
    batches = [[1], [16], [3, 12], [15, 1], [7, 7, 40], [1] * 31, [2] * 8, [128], [60, 60]]
    for seed, lengths in enumerate(batches, 1):
        ids = random_ids(lengths, SHAPES["demo"].vocab_size, seed)
        found = graphs.forward(ids)
        assert found is not None
        assert np.allclose(found, model.forward(model.pack(ids)), atol=1e-6), lengths
    assert capture.replays == recorded + len(batches)
    first = graphs.forward(random_ids([5], 100))
    assert first is not None
    kept = first.clone()
    graphs.forward(random_ids([6], 100))
    assert torch.equal(first, kept)
    assert graphs.forward(random_ids([129], 100)) is None
    assert graphs.forward(random_ids([3] * 40, 100)) is None


def frozen(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A graph that doesn't see its inputs."""
    return lambda: None, run()


def failing(run: Callable[[], Tensor]) -> Any:
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with ...")


@pytest.mark.parametrize(("capture", "said"), [(frozen, "gives other vectors"), (failing, "stream is capturing")])
def test_graphs_that_fail_are_not_used(model: Model, caplog: pytest.LogCaptureFixture, capture: Any, said: str) -> None:
    graphs = Graphs(model, capture)
    graphs.prepare(FEW)
    assert graphs.forward(random_ids([5], 100)) is None
    assert [said in record.message for record in caplog.records] == [True]
    assert "\n" not in caplog.records[0].message


def test_graphs_stay_within_their_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter(range(1000, 100_000, 100))
    monkeypatch.setattr("serve_app.engine.graphs.reserved", lambda _: next(taken))
    graphs = Graphs(model, Repeated())
    graphs.prepare(FEW, memory=250)
    assert len(graphs) == 2
    assert graphs.forward(random_ids([128], 100)) is None  # the larger of the largest come first


def test_memory_that_torch_keeps_for_later_is_not_that_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, taken = [1000], 50
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: taken + sum(kept))
    assert reserved(torch.device("cuda", 0)) == taken
    assert reserved(CPU) == 0


def test_the_engine_uses_graphs_but_behind_prefixes(model: Model) -> None:
    plain = Engine(model, prefix_cache_mb=0)
    engine = Engine(model, graphs=True)
    engine._graphs = Graphs(model, capture := Repeated())
    engine.warmup()
    assert len(engine._graphs) == len(BUCKETS)
    capture.replays = 0
    ids = random_ids([20, 30, 40, 50, 600], 1000)
    assert np.allclose(engine.encode(ids[:4]), plain.encode(ids[:4]), atol=1e-6)
    assert capture.replays == 1
    assert np.allclose(engine.encode(ids), plain.encode(ids), atol=1e-6)
    assert capture.replays == 1
    shared = [np.append(ids[3], one) for one in ids[:4]]
    engine.prefixes = Engine(model).prefixes  # which hasn't given up looking
    assert np.allclose(engine.encode(shared), plain.encode(shared), atol=1e-5)
    assert engine.encode_checked(shared).reused == [50] * 4
    assert capture.replays == 1


def test_the_largest_batch_has_to_fit_beside_the_graphs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model)
    engine._graphs = Graphs(model, Repeated())
    engine.device = torch.device("cuda", 0)
    graphs: list[int] = []

    def largest(run: Any, tokens: int) -> int:
        graphs.append(len(engine._graphs or ()))
        return 1000

    monkeypatch.setattr("serve_app.engine.engine.largest_that_fits", largest)
    engine.warmup()
    assert graphs == [len(BUCKETS)]
    assert engine.max_batch_tokens == 1000


def test_without_cuda_graphs_are_off(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    assert not model.can_be_recorded
    if not torch.cuda.is_available():
        graphs = Graphs(model)
        graphs.prepare(FEW)
        assert len(graphs) == 0
        assert "CUDA graphs are off" in caplog.text
