"""int8 products: near to the exact ones, each token on its own, and a quality that is held at load."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.engine import cpu, floor
from serve_app.engine.engine import Engine
from serve_app.engine.floor_texts import TEXTS
from serve_app.engine.int8 import Int8
from serve_app.engine.int8_rows import NativeRows, Rows, TorchRows, pick_rows
from serve_app.engine.model import Model
from serve_app.engine.precision import Precision
from serve_app.engine.random_weights import random_weights
from serve_app.engine.stored import load_weights
from serve_app.errors import CheckpointError, EngineError
from tests.checkpoints import SHAPES, checkpoint, copy_of, random_ids, with_shape

CPU = torch.device("cpu")
LENGTHS = [1, 2, 3, 7, 16, 17, 17, 64, 255, 600]
DTYPES = [torch.float32, torch.bfloat16]


def native() -> Rows:
    rows = pick_rows()
    if not isinstance(rows, NativeRows):
        pytest.skip("needs a C++ compiler")
    return rows


KINDS = [TorchRows, native]
needs_int8 = pytest.mark.skipif(not cpu.multiplies_int8(), reason="needs a CPU with AVX512-VNNI or AMX")


@cache
def engine(shape: str = "demo", dtype: str = "float32") -> Engine:
    return Engine.load(str(checkpoint(shape)), device="cpu", dtype=dtype)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first.astype(np.float64) * second).sum(1)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantise(rows: Rows, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    out = torch.empty(x.shape, dtype=torch.int8)
    return out, rows.quantise(x, out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_within_half_a_step(kind: Callable[[], Rows], dtype: torch.dtype) -> None:
    x = normal(200, 67, dtype=dtype) * torch.logspace(-6, 6, 200).unsqueeze(1).to(dtype)
    x[5] = 0
    quantised, scale = quantise(kind(), x)
    assert scale.shape == (200, 1)
    assert (quantised[5] == 0).all()
    rounding = 0.51 if dtype == torch.float32 else 0.76  # torch's calls round the quotient to bfloat16 too
    assert ((quantised.float() * scale.float() - x.float()).abs() <= rounding * scale.float()).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_largest_value_turns_round(kind: Callable[[], Rows], dtype: torch.dtype) -> None:
    """127 and a half, rounded to bfloat16 on the way, would be 128 and so -128."""
    x = torch.linspace(1, 2, 5000).unsqueeze(1).to(dtype)
    quantised, _ = quantise(kind(), torch.cat([x, -x], dim=1))
    assert (quantised[:, 0] > 120).all()
    assert (quantised[:, 1] < -120).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(kind: Callable[[], Rows], dtype: torch.dtype, broken: float) -> None:
    rows, x = kind(), torch.ones(3, 64, dtype=dtype)
    x[1, 7] = broken
    quantised, scales = quantise(rows, x)
    product = quantised.to(dtype)
    rows.scale(product, scales, product)
    assert not product[1].isfinite().any()
    torch.testing.assert_close(product[[0, 2]].float(), torch.ones(2, 64), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scaling_writes_within_wider_tensors(kind: Callable[[], Rows], dtype: torch.dtype) -> None:
    rows = kind()
    _, scales = quantise(rows, normal(40, 16, dtype=dtype))
    product, wide = normal(40, 96, dtype=dtype, seed=1)[:, :70], normal(40, 96, dtype=dtype, seed=2)
    exact = product.double() * scales.double()
    sums = wide.clone()
    rows.add(product, scales, sums[:, :70])
    relative = 1e-6 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(sums[:, :70].double(), wide[:, :70].double() + exact, rtol=2 * relative, atol=relative)
    rows.scale(product, scales, sums[:, :70])
    torch.testing.assert_close(sums[:, :70].double(), exact, rtol=relative, atol=relative)
    assert torch.equal(sums[:, 70:], wide[:, 70:])


@needs_int8
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 511, 1025])
def test_products_are_those_of_the_quantised_parts(dtype: torch.dtype, rows: int) -> None:
    weight, x, sums = normal(96, 64, seed=1), normal(rows, 64, dtype=dtype), normal(rows, 96, dtype=dtype, seed=2)
    (q, q_scale), (w, w_scale) = quantise(pick_rows(), x), quantise(pick_rows(), weight)
    exact = (q.double() @ w.double().t()) * q_scale.double() * w_scale.double().t()
    relative = 1e-6 if dtype == torch.float32 else 8e-3
    product = Int8(weight)
    out = torch.empty(rows, 96, dtype=dtype)
    assert product(x, out=out) is out
    torch.testing.assert_close(out.double(), exact, rtol=relative, atol=relative)
    assert torch.equal(product(x), out)
    expected = sums.double() + exact
    product.add_to(sums, x)
    torch.testing.assert_close(sums.double(), expected, rtol=2 * relative, atol=2 * relative)


@needs_int8
def test_a_row_with_outliers_moves_no_other() -> None:
    x = normal(40, 64)
    calm = Int8(normal(96, 64, seed=1))(x)
    x[7, 3] = 1e4
    wild = Int8(normal(96, 64, seed=1))(x)
    rest = [row for row in range(40) if row != 7]
    assert torch.equal(wild[rest], calm[rest])
    assert not torch.equal(wild[7], calm[7])


@needs_int8
@pytest.mark.parametrize("shape", ["demo", "deep-wide-heads"])
def test_vectors_are_near_those_of_float32(shape: str) -> None:
    ids = random_ids(LENGTHS, SHAPES[shape].vocab_size)
    assert cosines(engine(shape, "int8").encode(ids), engine(shape).encode(ids)).min() > 0.995


@needs_int8
def test_batch_mates_change_nothing_in_int8() -> None:
    """Each token has its scale, so that vectors only differ by how the states between products are rounded."""
    ids = random_ids(LENGTHS, 1280)
    alone = np.concatenate([engine("demo", "int8").encode([one]) for one in ids])
    assert cosines(alone, engine("demo", "int8").encode(ids)).min() > 0.999


@needs_int8
@pytest.mark.parametrize("dtype", DTYPES)
def test_outlier_channels_are_borne(dtype: torch.dtype) -> None:
    """Channels of the states that are far above the others, as trained models have, and their products take part."""
    config = with_shape(num_hidden_layers=6)
    full = random_weights(config, CPU, torch.float32, seed=3)
    full.embedding[:, [3, 77]] *= 30
    for layer in full.layers:
        layer.mlp_norm[[3, 77]] *= 4
        layer.input_norm[[3, 77]] *= 4
    low = random_weights(config, CPU, dtype, seed=3)
    low.embedding.copy_(full.embedding)
    for mine, theirs in zip(low.layers, full.layers, strict=True):
        for name in mine.__slots__:
            getattr(mine, name).copy_(getattr(theirs, name))
    ids = random_ids(LENGTHS, config.vocab_size)
    exact = Engine(Model(config, full)).encode(ids)
    assert cosines(Engine(Model(config, low, Int8)).encode(ids), exact).min() > 0.99


@needs_int8
def test_what_was_computed_with_is_told() -> None:
    loaded = engine("demo", "int8")
    assert loaded.precision.name == "int8"
    assert loaded.dtype == (torch.bfloat16 if cpu.multiplies_bfloat16() else torch.float32)
    assert loaded.fidelity is not None
    assert 0.99 < loaded.fidelity.minimum < loaded.fidelity.mean < 0.99999
    assert loaded.fidelity.texts == len(TEXTS) >= 24
    assert engine().fidelity is None


@needs_int8
def test_float32_between_products_where_bfloat16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.cpu.multiplies_bfloat16", lambda: False)
    loaded = Engine.load(str(checkpoint()), device="cpu", dtype="int8")
    assert loaded.dtype == torch.float32
    ids = random_ids(LENGTHS, 1280)
    assert cosines(loaded.encode(ids), engine().encode(ids)).min() > 0.995


def test_refuses_int8_without_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.cpu.multiplies_int8", lambda: False)
    with pytest.raises(EngineError, match=r"needs a CPU with AVX512-VNNI or AMX.* Use float32"):
        Engine.load(str(checkpoint()), device="cpu", dtype="int8")


@needs_int8
def test_weights_that_int8_ruins_are_not_served(tmp_path: Path) -> None:
    """One weight a row far above all others leaves one step or none for the rest."""
    folder = copy_of(checkpoint(), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("down_proj.weight"):
            tensor[:, 0] *= 300
    save_file(tensors, folder / "model.safetensors")
    Engine.load(str(folder), device="cpu")
    with pytest.raises(
        CheckpointError, match=r"dtype=int8 .* worst has cosine -?0\.\d+, and 0\.99 is needed. Use dtype"
    ):
        Engine.load(str(folder), device="cpu", dtype="int8")
    assert Engine.load(str(folder), device="cpu", dtype="int8", verify=False).fidelity is None


def test_the_floor_refuses_what_is_not_a_number() -> None:
    ids = [np.array([1], np.int32)] * 2
    good = np.eye(2, dtype=np.float32)
    with pytest.raises(CheckpointError, match="fp4"):
        floor.hold("fp4", lambda _: ids, lambda _: good * np.nan, lambda _: good)
    assert floor.hold("fp4", lambda _: ids, lambda _: good, lambda _: good) == floor.Fidelity(1.0, 1.0, 2)


def test_the_reference_is_the_unquantised_model() -> None:
    shape = "deep-wide-heads"  # stored as bfloat16
    weights = load_weights(checkpoint(shape), SHAPES[shape], CPU, torch.bfloat16)
    ids = random_ids(LENGTHS, SHAPES[shape].vocab_size)
    found = floor.reference_vectors(SHAPES[shape], weights, ids)
    assert np.abs(found - engine(shape).encode(ids)).max() < 1e-5


@needs_int8
def test_without_a_compiler_vectors_are_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.int8.pick_rows", TorchRows)
    loaded = Engine.load(str(checkpoint()), device="cpu", dtype="int8")
    ids = random_ids(LENGTHS, 1280)
    assert cosines(loaded.encode(ids), engine().encode(ids)).min() > 0.995


def test_a_precision_of_ones_own_goes_through_the_engine() -> None:
    """What a new kind of projection needs: a `Precision` of its own."""
    shape = "one-key-head"
    weights = load_weights(checkpoint(shape), SHAPES[shape], CPU, torch.float32)
    own = Engine(Model(SHAPES[shape], weights), precision=Precision("own", torch.float32, quantised=True))
    assert own.precision.name == "own"
