"""Packed weights: the same products as torch's own call, and chosen only where they are right and faster."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from serve_app.engine import cpu, packed
from serve_app.engine.engine import Engine
from serve_app.engine.fixed_rows import FixedRows
from serve_app.engine.model import Model
from serve_app.engine.packed import Packed, dense
from serve_app.engine.precision import pick_precision
from serve_app.engine.projection import Dense
from serve_app.engine.random_weights import random_weights
from tests.checkpoints import SHAPES, checkpoint, random_ids

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def choices_are_made_anew() -> Iterator[None]:
    packed._packing_wins.cache_clear()
    yield
    packed._packing_wins.cache_clear()


def needs(dtype: torch.dtype) -> None:
    try:
        Packed(torch.ones(64, 64, dtype=dtype))
    except (RuntimeError, AttributeError):
        assert dtype == torch.bfloat16 or not torch.backends.mkldnn.is_available()
        assert not cpu.multiplies_bfloat16()
        pytest.skip(f"oneDNN packs no {dtype} here")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 15, 16, 257, 1024, 1025, 2100])
def test_products_are_those_of_torch(dtype: torch.dtype, rows: int) -> None:
    needs(dtype)
    generator = torch.Generator().manual_seed(rows)
    weight, x, sums = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((48, 80), (rows, 80), (rows, 48))
    )
    product = Packed(weight)
    exact = x.double() @ weight.double().t()
    tolerance = {"rtol": 1e-2, "atol": 1e-1} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    found = product(x)
    assert found.shape == (rows, 48)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, **tolerance)
    torch.testing.assert_close(product(x, out=torch.empty(rows, 48, dtype=dtype)), found)
    before = sums.double()
    product.add_to(sums, x)
    torch.testing.assert_close(sums.double(), before + exact, **tolerance)


def test_a_row_that_is_not_finite_stays_so_alone() -> None:
    x = torch.ones(5, 64)
    x[1, 7], x[3, 0] = torch.nan, torch.inf
    assert Packed(torch.ones(32, 64))(x).isfinite().all(dim=1).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("shape", ["demo", "one-key-head", "deep-wide-heads"])
def test_vectors_are_the_same_whole_in_parts_and_behind_prefixes(shape: str) -> None:
    config = SHAPES[shape]
    weights = random_weights(config, CPU, torch.float32)
    plain, fast = Model(config, weights, Dense), Model(config, weights, Packed)
    parted = Model(config, weights, Packed, part_tokens=50)
    ids = random_ids([1, 3, 3, 64, 7, 130], config.vocab_size)
    expected = plain.forward(plain.pack(ids))
    for model in (fast, parted):
        assert np.allclose(model.forward(model.pack(ids)), expected, atol=2e-6)
        assert torch.allclose(model.every_token(model.pack(ids)), plain.every_token(plain.pack(ids)), atol=1e-4)
        prefix = model.prefix(ids[3])
        found = model.forward(model.pack(ids, [prefix] * len(ids)))
        longer = [np.append(ids[3], each) for each in ids]
        assert np.allclose(found, plain.forward(plain.pack(longer)), atol=5e-6)


@pytest.mark.parametrize(("shares", "kind"), [((1.2, 0.4), Packed), ((0.4, 1.6), Dense), ((0.9, 1.12), Dense)])
def test_large_matrices_are_packed_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, float], kind: type
) -> None:
    measured = iter(shares)
    monkeypatch.setattr(packed, "_share", lambda *_: next(measured))
    assert isinstance(dense(torch.ones(1024, 1024)), kind)
    assert isinstance(dense(torch.ones(512, 2048)), kind), "it is measured once"
    assert next(measured, None) is None
    assert isinstance(dense(torch.ones(1023, 1024)), Dense), "a small one isn't worth it"
    assert isinstance(dense(torch.ones(1024, 1024, device="meta")), Dense)


def test_products_that_are_wrong_or_missing_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(packed, "_share", lambda *_: 0.1)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(Packed, "_product", lambda self, x: torch.zeros(len(x), self._outputs))
        assert isinstance(dense(torch.ones(1024, 1024)), Dense)
    assert "off by" in caplog.text
    packed._packing_wins.cache_clear()

    def missing(self: Packed, weight: torch.Tensor) -> None:
        raise RuntimeError("mkldnn isn't built in\nmore")

    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(Packed, "__init__", missing)
        assert isinstance(dense(torch.ones(1024, 1024)), Dense)
    assert caplog.records[-1].getMessage().endswith("stay as they are: mkldnn isn't built in")


def test_the_fastest_call_of_each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, threads = 0.0, torch.get_num_threads()
    monkeypatch.setattr(packed.time, "thread_time", lambda: now)

    class Taking(Dense):
        def __init__(self, *seconds: float) -> None:
            self._seconds = iter(seconds)

        def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
            nonlocal now
            now += next(self._seconds)
            return x

    assert packed._share(Taking(9, 2, 3, 2, 8), Taking(4, 5, 100, 4, 6), torch.ones(1, 1)) == 0.5
    assert torch.get_num_threads() == threads


def test_the_engine_packs_but_where_the_last_bit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SMALLEST", 1)
    monkeypatch.setattr(packed, "_packing_wins", lambda dtype: True)
    ids = random_ids([1, 5, 40], 1280)
    fast = Engine.load(str(checkpoint()), device="cpu")
    assert isinstance(fast.model._layers.last.query, Packed)
    exact = Engine.load(str(checkpoint()), device="cpu", invariant=True)
    fixed = exact.model._layers.last.query
    assert isinstance(fixed, FixedRows)
    assert isinstance(fixed._projection, Dense)
    assert np.abs(fast.encode(ids) - exact.encode(ids)).max() <= 1e-6
    assert pick_precision("float32", CPU).project is dense
    assert pick_precision("float32", torch.device("cuda", 0)).project is Dense
