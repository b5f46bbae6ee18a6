"""fp8 products: the maths on CPU, where torch has the same call, and where they are refused."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.config import Settings
from serve_app.engine import fp8, precision
from serve_app.engine.engine import Engine
from serve_app.engine.fp8 import Fp8, disagreement, fp8_projections, quantise_rows
from serve_app.engine.model import Model
from serve_app.engine.random_weights import random_weights
from serve_app.errors import CheckpointError, EngineError
from tests.checkpoints import SHAPES, checkpoint, random_ids

CPU = torch.device("cpu")


def test_rows_keep_their_own_scale() -> None:
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    x[1] *= 1e4
    x[2] = 0
    quantised, scale = quantise_rows(x)
    assert quantised.dtype == torch.float8_e4m3fn
    assert scale.shape == (5, 1)
    assert quantised.float().abs().amax(dim=1).tolist() == [448, 448, 0, 448, 448]
    # Three bits of mantissa: off by a sixteenth at most, or by half of the smallest step.
    assert ((quantised.float() * scale - x).abs() <= x.abs() / 16 + scale * 2**-10).all()
    alone, alone_scale = quantise_rows(x[3:4])
    assert torch.equal(alone.float(), quantised[3:4].float())
    assert torch.equal(alone_scale, scale[3:4])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_stays_so_alone(bad: float) -> None:
    x = torch.ones(3, 32, dtype=torch.bfloat16)
    x[1, 5] = bad
    product = Fp8(torch.ones(16, 32, dtype=torch.bfloat16))(x)
    assert product.isfinite().all(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_those_of_the_quantised_values(dtype: torch.dtype) -> None:
    assert disagreement(CPU, dtype) is None
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(n, 64, generator=generator).to(dtype) for n in (7, 48))
    projection = Fp8(weight)
    out, sums = torch.empty(7, 48, dtype=dtype), torch.ones(7, 48, dtype=dtype)
    found = projection(x, out=out)
    assert found.data_ptr() == out.data_ptr()
    assert torch.equal(found, projection(x))
    projection.add_to(sums, x)
    assert torch.equal(sums, found + 1)


def test_products_are_written_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    projection, out = Fp8(torch.ones(16, 32)), torch.empty(3, 16)
    monkeypatch.setattr(Tensor, "copy_", lambda *_: pytest.fail("the product was copied"))
    assert projection(torch.ones(3, 32), out=out) is out


def test_a_product_that_is_wrong_is_noticed() -> None:
    def halved(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quantised, scale = quantise_rows(x)
        return quantised, scale / 2

    def missing(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("_scaled_mm is only supported on newer devices\nmore")

    assert "off by" in str(disagreement(CPU, torch.bfloat16, halved))
    assert "can't multiply it here (_scaled_mm is only supported on newer devices)" in str(
        disagreement(CPU, torch.bfloat16, missing)
    )


def test_the_weights_it_is_made_of_are_not_kept() -> None:
    weights = random_weights(SHAPES["demo"], CPU, torch.float32)
    gate_up = weakref.ref(weights.layers[0].gate_up)
    model = Model(SHAPES["demo"], weights, Fp8)
    del weights
    assert gate_up() is None
    assert len(model.forward(model.pack(random_ids([5], 100)))) == 1


@pytest.mark.parametrize("shape", ["demo", "deep-wide-heads"])
def test_vectors_are_near_those_in_full_precision(shape: str) -> None:
    config = SHAPES[shape]
    weights = random_weights(config, CPU, torch.float32)
    model, low = Model(config, weights), Model(config, weights, Fp8)
    ids = random_ids([1, 5, 40, 130], config.vocab_size)
    found, expected = low.forward(low.pack(ids)), model.forward(model.pack(ids))
    assert (found * expected).sum(dim=1).min() >= 0.99
    alone = low.forward(low.pack(ids[1:2]))
    assert np.allclose(alone, found[1:2], atol=1e-3)


def test_it_is_refused_where_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="dtype fp8 needs a CUDA device"):
        fp8_projections(CPU)
    with pytest.raises(EngineError, match="dtype fp8 needs a CUDA device"):
        Engine.load(str(checkpoint()), device="cpu", dtype="fp8")
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(EngineError, match=r"NVIDIA A100 has 8\.0\. Use dtype=bfloat16"):
        fp8_projections(cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(fp8, "_fused", lambda _: quantise_rows)
    monkeypatch.setattr(fp8, "disagreement", lambda *_: "products are off")
    with pytest.raises(EngineError, match="dtype fp8: products are off"):
        fp8_projections(cuda)
    monkeypatch.setattr(fp8, "disagreement", lambda *_: None)
    assert isinstance(fp8_projections(cuda)(torch.ones(16, 16)), Fp8)
    with pytest.raises(EngineError, match=r"a matrix of this model is \[24, 16\]"):
        Fp8(torch.ones(24, 16))


def test_the_setting_reaches_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "fp8_projections", lambda _: Fp8)
    # Three bits of mantissa are too few for some texts under random weights.
    with pytest.raises(CheckpointError, match="dtype=fp8"):
        Engine.load(str(checkpoint()), device="cpu", dtype="fp8")
    low = Engine.load(str(checkpoint()), device="cpu", dtype="fp8", verify=False)
    assert low.dtype == torch.bfloat16
    ids = random_ids([1, 5, 40, 130], SHAPES["demo"].vocab_size)
    cosines = (low.encode(ids) * Engine.load(str(checkpoint()), device="cpu").encode(ids)).sum(axis=1)
    assert cosines.min() >= 0.99
    assert cosines.max() < 0.99999  # it is fp8
    assert Settings(dtype="fp8").dtype == "fp8"
    assert precision.linear_itemsize("fp8") == 1
    assert precision.linear_itemsize("auto") is None
