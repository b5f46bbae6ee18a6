"""int8 products: near to the exact ones, each token on its own, and a quality that is held at load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.engine import cpu, floor, int8_avx2, int8_choice
from serve_app.engine.engine import Engine
from serve_app.engine.floor_texts import TEXTS
from serve_app.engine.int8 import Int8
from serve_app.engine.int8_rows import EIGHT_BITS, SEVEN_BITS, Levels, NativeRows, Rows, TorchRows, pick_rows
from serve_app.engine.layer import Project
from serve_app.engine.model import Model
from serve_app.engine.native_build import BuildError
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
LEVELS = [EIGHT_BITS, SEVEN_BITS]
PRODUCTS = list(int8_choice.KINDS)
needs_int8 = pytest.mark.skipif(not int8_choice.kinds_here(), reason="needs a CPU with AMX, AVX512-VNNI or AVX2")


def needs(products: str) -> Project:
    """Products of this kind, where this machine has what they need."""
    onednn = cpu.has_onednn_int8() and (cpu.multiplies_int8() or (cpu.has_avx2() and "7 bits" in products))
    if products.startswith("own"):
        native()
    if not (cpu.has_avx2() if products.startswith("own") else onednn):
        pytest.skip("this CPU has no such products")
    return int8_choice.KINDS[products]


@cache
def engine(shape: str = "demo", dtype: str = "float32") -> Engine:
    return Engine.load(str(checkpoint(shape)), device="cpu", dtype=dtype)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first.astype(np.float64) * second).sum(1)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantise(rows: Rows, x: torch.Tensor, levels: Levels = EIGHT_BITS) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers that the bytes stand for, as integers in float32, and the scales."""
    out = torch.empty(x.shape, dtype=levels.dtype)
    scales = rows.quantise(x, out, levels)
    return out.float() - levels.zero, scales


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_within_half_a_step(kind: Callable[[], Rows], dtype: torch.dtype, levels: Levels) -> None:
    x = normal(200, 67, dtype=dtype) * torch.logspace(-6, 6, 200).unsqueeze(1).to(dtype)
    x[5] = 0
    quantised, scale = quantise(kind(), x, levels)
    assert scale.shape == (200, 1)
    assert (quantised[5] == 0).all()
    rounding = 0.51 if dtype == torch.float32 else 0.76  # torch's calls round the quotient to bfloat16 too
    assert ((quantised * scale.float() - x.float()).abs() <= rounding * scale.float()).all()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_largest_value_turns_round(kind: Callable[[], Rows], dtype: torch.dtype, levels: Levels) -> None:
    """127 and a half, rounded to bfloat16 on the way, would be 128 and so -128; 64 and 64 the 128 that a pair has no room for."""
    x = torch.linspace(1, 2, 5000).unsqueeze(1).to(dtype)
    quantised, _ = quantise(kind(), torch.cat([x, -x], dim=1), levels)
    smallest = levels.largest - (7 if levels is EIGHT_BITS else 1)
    assert ((smallest < quantised[:, 0]) & (quantised[:, 0] <= levels.largest)).all()
    assert ((-levels.largest <= quantised[:, 1]) & (quantised[:, 1] < -smallest)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so(
    kind: Callable[[], Rows], dtype: torch.dtype, levels: Levels, broken: float
) -> None:
    rows, x = kind(), torch.ones(3, 64, dtype=dtype)
    x[1, 7] = broken
    quantised, scales = quantise(rows, x, levels)
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


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 64, 511, 1025])
@pytest.mark.parametrize("shape", [(96, 64), (101, 75)], ids=["even", "odd"])
def test_products_are_those_of_the_quantised_parts(
    products: str, dtype: torch.dtype, rows: int, shape: tuple[int, int]
) -> None:
    project, levels = needs(products), SEVEN_BITS if "7 bits" in products else EIGHT_BITS
    outputs, inputs = shape
    weight, x = normal(outputs, inputs, seed=1), normal(rows, inputs, dtype=dtype)
    sums = normal(rows, outputs, dtype=dtype, seed=2)
    (q, q_scale), (w, w_scale) = quantise(pick_rows(), x, levels), quantise(pick_rows(), weight)
    exact = (q.double() @ w.double().t()) * q_scale.double() * w_scale.double().t()
    relative = 1e-6 if dtype == torch.float32 else 8e-3
    product = project(weight)
    out = torch.empty(rows, outputs, dtype=dtype)
    assert product(x, out=out) is out
    torch.testing.assert_close(out.double(), exact, rtol=relative, atol=relative)
    assert torch.equal(product(x), out)
    expected = sums.double() + exact
    product.add_to(sums, x)
    torch.testing.assert_close(sums.double(), expected, rtol=2 * relative, atol=2 * relative)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_write_within_wider_tensors(products: str, dtype: torch.dtype) -> None:
    product = needs(products)(normal(43, 64, seed=1))
    x, wide = normal(21, 64, dtype=dtype), normal(21, 60, dtype=dtype, seed=2)
    into = wide.clone()
    product(x, out=into[:, :43])
    assert torch.equal(into[:, :43], product(x))
    assert torch.equal(into[:, 43:], wide[:, 43:])


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_largest_numbers_come_out_exact(products: str) -> None:
    """What saturates where pairs of products are added in 16 bits: everything at its largest, and signs in every order."""
    project = needs(products)
    assert int8_choice.is_exact(project)
    one = torch.ones(1, 2048)
    assert project(torch.cat([one, -one]))(torch.cat([one, -one])).tolist() == [
        [pytest.approx(2048), pytest.approx(-2048)],
        [pytest.approx(-2048), pytest.approx(2048)],
    ]


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_gives_no_numbers(products: str, broken: float) -> None:
    product, x = needs(products)(normal(96, 64, seed=1)), normal(9, 64)
    expected = product(x)
    x[4, 7] = broken
    found = product(x)
    rest = [0, 1, 2, 3, 5, 6, 7, 8]
    assert not found[4].isfinite().any()
    assert torch.equal(found[rest], expected[rest])


class Saturating:
    """Products as AVX2 has them, in slow motion: unsigned by signed bytes, pairs of them added in 16 bits that saturate."""

    def __init__(self, weight: torch.Tensor, levels: Levels) -> None:
        self._levels = levels
        self._weight, self._scale = quantise(TorchRows(), weight)

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        quantised, scale = quantise(TorchRows(), x, self._levels)
        zero = self._levels.zero or 128  # oneDNN too makes signed bytes unsigned, and takes off what that adds
        one = ((quantised + zero)[:, None] * self._weight).unflatten(2, (-1, 2)).sum(-1).clamp(-32768, 32767)
        return (one.sum(-1) - zero * self._weight.sum(1)) * scale * self._scale.t()

    def add_to(self, sums: torch.Tensor, x: torch.Tensor) -> None:
        sums += self(x)


@pytest.mark.parametrize("levels", LEVELS)
def test_the_trial_sees_what_saturates(levels: Levels) -> None:
    assert int8_choice.is_exact(partial(Saturating, levels=levels)) == (levels is SEVEN_BITS)


@pytest.fixture
def choices_are_made_anew() -> Iterator[None]:
    cached = int8_choice._is_exact_here, int8_avx2._library
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


def no_compiler(*_: object) -> Path:
    raise BuildError("no C++ compiler")


def chosen(monkeypatch: pytest.MonkeyPatch, **kinds: Project) -> Project:
    """What a CPU with instructions for everything takes, of these kinds of products."""
    int8_choice._is_exact_here.cache_clear()
    monkeypatch.setattr(int8_choice, "KINDS", kinds)
    for question in ("multiplies_int8", "has_avx2", "has_onednn_int8"):
        monkeypatch.setattr(cpu, question, lambda: True)
    return int8_choice.int8_projections()


@pytest.mark.usefixtures("choices_are_made_anew")
def test_products_that_are_not_exact_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, right = partial(Saturating, levels=EIGHT_BITS), partial(Saturating, levels=SEVEN_BITS)

    def missing(weight: torch.Tensor) -> Saturating:
        no_compiler()
        return Saturating(weight, SEVEN_BITS)

    assert chosen(monkeypatch, first=wrong, second=right, third=wrong) is right
    assert "without first: sums come out wrong on this CPU" in caplog.text
    assert chosen(monkeypatch, first=missing, second=missing, third=right) is right
    assert "without first: no C++ compiler" in caplog.text
    with pytest.raises(EngineError, match=r"no exact products .*tried: first; second; third.* Use float32"):
        chosen(monkeypatch, first=wrong, second=missing, third=wrong)


@needs_int8
def test_a_cpu_that_is_taken_for_another_gets_no_wrong_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the CPU says that it has, what is chosen is exact on it."""
    monkeypatch.setattr(cpu, "multiplies_int8", cpu.has_onednn_int8)
    assert int8_choice.is_exact(int8_choice.int8_projections())
    if cpu.has_onednn_int8() and not int8_choice.is_exact(Int8):
        assert int8_choice.int8_projections() is not Int8


@pytest.mark.parametrize("products", PRODUCTS)
def test_a_row_with_outliers_moves_no_other(products: str) -> None:
    project, x = needs(products), normal(40, 64)
    calm = project(normal(96, 64, seed=1))(x)
    x[7, 3] = 1e4
    wild = project(normal(96, 64, seed=1))(x)
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


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_outlier_channels_are_borne(dtype: torch.dtype, products: str) -> None:
    """Channels of the states that are far above the others, as trained models have, and their products take part."""
    if dtype == torch.bfloat16 and products.startswith("oneDNN") and not cpu.multiplies_bfloat16():
        pytest.skip("oneDNN takes a minute to write bfloat16 here, and the engine doesn't ask it to")
    project, config = needs(products), with_shape(num_hidden_layers=6)
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
    assert cosines(Engine(Model(config, low, project)).encode(ids), exact).min() > 0.99


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
    monkeypatch.setattr("serve_app.engine.cpu.has_avx2", lambda: False)
    with pytest.raises(EngineError, match=r"needs a CPU with AMX, AVX512-VNNI or AVX2.* Use float32"):
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
@pytest.mark.usefixtures("choices_are_made_anew")
def test_without_a_compiler_vectors_are_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.engine.int8.pick_rows", TorchRows)
    monkeypatch.setattr("serve_app.engine.int8_avx2.build", no_compiler)
    loaded = Engine.load(str(checkpoint()), device="cpu", dtype="int8")
    ids = random_ids(LENGTHS, 1280)
    assert cosines(loaded.encode(ids), engine().encode(ids)).min() > 0.995


def test_a_precision_of_ones_own_goes_through_the_engine() -> None:
    """What a new kind of projection needs: a `Precision` of its own."""
    shape = "one-key-head"
    weights = load_weights(checkpoint(shape), SHAPES[shape], CPU, torch.float32)
    own = Engine(Model(SHAPES[shape], weights), precision=Precision("own", torch.float32, quantised=True))
    assert own.precision.name == "own"
