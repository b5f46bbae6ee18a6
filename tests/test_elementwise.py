"""The elementwise parts, by torch and by compiled kernels, against their formulas in float64."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from serve_app.engine import elementwise, native
from serve_app.engine.elementwise import Elementwise, TorchElementwise, pick_elementwise
from serve_app.engine.engine import Engine
from serve_app.engine.native import NativeElementwise, native_library
from serve_app.engine.native_build import BuildError, build
from tests.checkpoints import checkpoint, random_ids

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=["torch", "native"])
def parts(request: pytest.FixtureRequest) -> Elementwise:
    if request.param == "torch":
        return TorchElementwise()
    library = native_library()
    assert library is not None, "no compiler here: the native kernels weren't tested"
    return NativeElementwise(library)


def random(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))).to(dtype)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """To what rounding of the dtype allows: a few roundings, in bfloat16 where torch's own calls round in between."""
    share = 2e-6 if found.dtype == torch.float32 else 3e-2
    assert (found.double() - expected).abs().max() <= share * expected.abs().max()


def normed(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), [(1, 1024), (3, 7), (100, 1000)])
def test_norm(parts: Elementwise, dtype: torch.dtype, rows: int, n: int) -> None:
    x, weight = random(rows, n, dtype=dtype, scale=30), random(n, dtype=dtype)
    expected = normed(x, weight)
    out = torch.empty(rows, 2 * n, dtype=dtype)[:, :n]
    assert parts.norm(x, weight, EPS, out=out) is out
    assert_near(out, expected)
    parts.norm(x, weight, EPS, out=x)
    assert_near(x, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [False, True], ids=["weight a head", "one weight"])
@pytest.mark.parametrize("dim", [16, 96, 128])
def test_heads_are_normed_and_turned_in_place(parts: Elementwise, dtype: torch.dtype, shared: bool, dim: int) -> None:
    tokens, heads = 37, 5
    everything = random(tokens, heads + 3, dim, dtype=dtype)
    turned, rest = everything[:, :heads], everything[:, heads:].clone()
    weight = random(dim, dtype=dtype) if shared else random(heads, dim, dtype=dtype)
    angles = random(tokens, 1, dim // 2, dtype=torch.float64, scale=3)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    first, second = normed(turned, weight).chunk(2, -1)
    c, s = cos.double(), sin.double()
    expected = torch.cat([first * c - second * s, second * c + first * s], -1)
    parts.turn_(turned, weight, EPS, cos, sin)
    assert_near(turned, expected)
    assert torch.equal(everything[:, heads:], rest)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), [(1, 3072), (5, 9), (64, 320)])
def test_gate(parts: Elementwise, dtype: torch.dtype, rows: int, n: int) -> None:
    gate_up = random(rows, 2 * n, dtype=dtype, scale=4)
    gate_up[0, :5] = torch.tensor([-200.0, -88.0, 0.0, 88.0, 200.0])  # where e^x leaves float32
    gate, up = gate_up.double().chunk(2, 1)
    expected = gate / (1 + (-gate).exp()) * up
    out = torch.empty(rows, n, dtype=dtype)
    assert parts.gate(gate_up, out=out) is out
    assert_near(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(parts: Elementwise, dtype: torch.dtype, broken: float) -> None:
    x = random(2, 64, dtype=dtype)
    x[1, 3] = broken
    out = parts.norm(x, torch.ones(64, dtype=dtype), EPS, out=torch.empty_like(x))
    assert out[0].isfinite().all()
    assert out[1].isnan().any()
    gated = parts.gate(x.clone(), out=torch.empty(2, 32, dtype=dtype))
    assert gated[0].isfinite().all()
    assert not gated[1].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_round_as_torch_does(dtype: torch.dtype) -> None:
    library = native_library()
    assert library is not None
    x = random(64, 512, dtype=dtype)
    ours = NativeElementwise(library).norm(x, torch.ones(512, dtype=dtype), EPS, out=torch.empty_like(x))
    exact = normed(x, torch.ones(512)).to(dtype)
    assert (ours != exact).float().mean() < (0.01 if dtype == torch.bfloat16 else 0.6)


def test_kernels_refuse_what_they_would_misread() -> None:
    library = native_library()
    assert library is not None
    parts, x = NativeElementwise(library), torch.ones(4, 8)
    for other in (torch.ones(4, 8, dtype=torch.bfloat16), torch.ones(8, 4).t(), torch.ones(4, 8, device="meta")):
        with pytest.raises(ValueError, match="tensor on"):
            parts.norm(x, torch.ones(8), EPS, out=other)
    with pytest.raises(ValueError, match="float16"):
        parts.norm(x.half(), torch.ones(8).half(), EPS, out=x.half())


def test_an_engine_without_compiler_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = random_ids([1, 5, 5, 40, 300], 1000)
    assert isinstance(pick_elementwise(torch.device("cpu")), NativeElementwise)
    with_kernels = Engine.load(str(checkpoint()), device="cpu").encode(ids)

    def missing(source: str) -> Path:
        raise BuildError("no C++ compiler is installed")

    monkeypatch.setattr(native, "build", missing)
    monkeypatch.setattr(elementwise, "native_library", native.native_library.__wrapped__)
    with caplog.at_level(logging.WARNING):
        plain = Engine.load(str(checkpoint()), device="cpu")
    assert "no C++ compiler is installed" in caplog.text
    assert np.abs(plain.encode(ids) - with_kernels).max() <= 1e-6


def test_built_once_and_kept(tmp_path: Path) -> None:
    first = build("kernels.cpp", tmp_path)
    stamp = first.stat().st_mtime_ns
    assert build("kernels.cpp", tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [file.name for file in tmp_path.iterdir()] == [first.name]


def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        build("kernels.cpp", tmp_path, compilers=("no-such-compiler",))
    with pytest.raises(BuildError, match="failed"):
        build("norm.py", tmp_path)  # not C++
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # nobody's
    with pytest.raises(BuildError, match=r"no home folder .* setting HOME"):
        build("kernels.cpp")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(BuildError, match="written"):
        build("kernels.cpp", blocked)
