"""The parts of a layer between its products by this package's own kernels: one pass over memory each, CPU only."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.native_build import BuildError, build

logger = logging.getLogger(__name__)

_POINTER, _INDEX, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES: dict[str, list[Any]] = {
    "norm": [_POINTER, _INDEX, _POINTER, _FLOAT, _POINTER, _INDEX, _INDEX, _INDEX, _INT],
    "turn": [_POINTER, _INDEX, _INDEX, _POINTER, _INDEX, _FLOAT, _POINTER, _POINTER, _INDEX, _INDEX, _INDEX, _INT],
    "gate": [_POINTER, _INDEX, _POINTER, _INDEX, _INDEX, _INDEX, _INT],
}
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_ELEMENTS_PER_THREAD = 16384  # below, waking another thread costs more than it saves


@cache
def native_library() -> ctypes.CDLL | None:
    """The kernels compiled for this machine; None, with a warning that says why, where they can't be."""
    try:
        return ctypes.CDLL(str(build("kernels.cpp")))
    except (BuildError, OSError) as error:
        logger.warning("The elementwise parts run as separate torch calls, which is slower on CPU: %s", error)
        return None


class NativeElementwise:
    """See `serve_app.engine.elementwise.Elementwise`. Tensors are float32 or bfloat16 on CPU, their last dimension contiguous."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._calls = {}
        for name, types in _SIGNATURES.items():
            for dtype, suffix in _DTYPES.items():
                call = library[f"{name}_{suffix}"]
                call.argtypes, call.restype = types, None
                self._calls[name, dtype] = call

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        check(x, weight, out)
        rows, n = x.shape
        source, target = (x.data_ptr(), x.stride(0)), (out.data_ptr(), out.stride(0))
        self._calls["norm", x.dtype](*source, weight.data_ptr(), eps, *target, rows, n, _threads(x))
        return out

    def turn_(self, heads: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> None:
        """See `Elementwise`."""
        check(heads, weight, cos, sin)
        one = weight.data_ptr(), weight.stride(0) if weight.dim() == 2 else 0
        angles = cos.contiguous(), sin.contiguous()
        self._calls["turn", heads.dtype](
            heads.data_ptr(), *heads.stride()[:2], *one, eps, *(x.data_ptr() for x in angles), *heads.shape, _threads(heads)
        )  # fmt: skip

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        check(gate_up, out)
        source, target = (gate_up.data_ptr(), gate_up.stride(0)), (out.data_ptr(), out.stride(0))
        self._calls["gate", out.dtype](*source, *target, *out.shape, _threads(gate_up))
        return out


def check(*tensors: Tensor) -> None:
    """Refuse what a kernel would read or write as something else. Raises `ValueError`."""
    dtype = tensors[0].dtype
    for x in tensors:
        if x.dtype != dtype or dtype not in _DTYPES or x.device.type != "cpu" or x.stride(-1) != 1:
            raise ValueError(f"a {x.dtype} tensor on {x.device} with strides {x.stride()} beside {dtype}")


def _threads(x: Tensor) -> int:
    return min(torch.get_num_threads(), 1 + x.numel() // _ELEMENTS_PER_THREAD)
