"""The calls that there are for a product `[rows, width] x [width, outputs]` in each dtype, as functions ready to be timed: those of
torch, and the own kernel of the engine where it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from serve_app.engine import cpu
from serve_app.engine.int8_avx2 import Avx2Int8

Make = Callable[[torch.device, int, int, int], Callable[[], object]]


def _dense(dtype: torch.dtype) -> Make:
    def make(device: torch.device, rows: int, width: int, outputs: int) -> Callable[[], object]:
        x, weight = _random(device, rows, width).to(dtype), _random(device, outputs, width).to(dtype)
        out = torch.empty(rows, outputs, dtype=dtype, device=device)
        return lambda: torch.mm(x, weight.t(), out=out)

    return make


def _integers(device: torch.device, rows: int, width: int, outputs: int) -> Callable[[], object]:
    if device.type == "cpu" and not cpu.multiplies_int8():
        raise RuntimeError("a loop without AVX512-VNNI or AMX, which takes seconds")
    x, weight = (_random_bytes(device, n, width) for n in (max(rows, 32), outputs))  # CUDA wants more than 16 rows
    return lambda: torch._int_mm(x, weight.t())


def _onednn(device: torch.device, rows: int, width: int, outputs: int) -> Callable[[], object]:
    operations: Any = torch.ops.onednn
    x, weight = _random_bytes(device, rows, width), _random_bytes(device, outputs, width)
    packed = operations.qlinear_prepack(weight, [rows, width])
    scale, zero = torch.tensor(1.0), torch.tensor(0)
    scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    rest = (packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "none")
    return lambda: operations.qlinear_pointwise(x, scale, zero, *rest)


def _own(device: torch.device, rows: int, width: int, outputs: int) -> Callable[[], object]:
    if device.type != "cpu" or cpu.multiplies_int8() or not cpu.has_avx2():
        raise RuntimeError("for CPUs with AVX2 and no instructions for int8")
    x, project = _random(device, rows, width), Avx2Int8(_random(device, outputs, width))
    out = torch.empty(rows, outputs)
    return lambda: project(x, out=out)


def _float8(device: torch.device, rows: int, width: int, outputs: int) -> Callable[[], object]:
    kind = torch.float8_e4m3fn
    rows += -rows % 16
    x, weight = _random(device, rows, width).to(kind), _random(device, outputs, width).to(kind)
    one = torch.ones((), device=device)
    return lambda: torch._scaled_mm(x, weight.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)


def _random(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device)


def _random_bytes(device: torch.device, *shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, device=device)


PRODUCTS: dict[str, dict[str, Make]] = {
    "float32": {"mm": _dense(torch.float32)},
    "bfloat16": {"mm": _dense(torch.bfloat16)},
    "int8": {"_int_mm": _integers, "onednn.qlinear_pointwise": _onednn, "Avx2Int8": _own},
    "fp8": {"_scaled_mm": _float8},
}
