"""int8 products by this package's own kernel, for CPUs with AVX2 and no instructions for 8-bit products that add in 32 bits.

There oneDNN's kernels widen the sum of each pair of products; `int8_avx2.cpp` says what ours do instead.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.int8 import parts
from serve_app.engine.int8_rows import SEVEN_BITS, Rows, pick_rows
from serve_app.engine.native import check
from serve_app.engine.native_build import build

_POINTER, _INDEX, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_LAY_OUT: list[Any] = [_POINTER, _INDEX, _INDEX, *[_POINTER] * 4]
_MULTIPLY: list[Any] = [_POINTER, _POINTER, _INDEX, _INDEX, *[_POINTER] * 6, _INDEX, _POINTER, _INDEX, _INT, _INT]
_LANES, _STEP = 8, 8  # outputs of a panel, and rows of a block; inputs of a step
_PRODUCTS_PER_THREAD = 2**20  # below, waking another thread costs more than it saves


class Avx2Int8:
    """Weights `[out, in]` in int8, activations in 7 bits. Takes and gives float32 or bfloat16. Raises `BuildError` or `OSError` where
    the kernel can't be compiled."""

    def __init__(self, weight: Tensor, rows: Rows | None = None) -> None:
        self._rows = rows or pick_rows()
        self._library = _library()
        self._outputs, self._inputs = weight.shape
        panels, self._steps = -(-self._outputs // _LANES), -(-self._inputs // _STEP)
        self._weights = torch.empty(panels, self._steps, _LANES * _STEP, dtype=torch.int8)
        self._at = torch.empty(panels, self._steps, dtype=torch.int16)
        self._counts = torch.empty(panels, 2, dtype=torch.int32)
        self._base = torch.empty(panels, _LANES, dtype=torch.int32)
        self._scales = torch.zeros(panels * _LANES)
        for begin, part in parts(weight):
            quantised = torch.empty(part.shape, dtype=torch.int8)
            self._scales[begin : begin + len(part)] = self._rows.quantise(part, quantised).flatten()
            laid = (x[begin // _LANES :].data_ptr() for x in (self._weights, self._at, self._counts, self._base))
            self._library.lay_out(quantised.data_ptr(), *part.shape, *laid)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        out = x.new_empty(len(x), self._outputs) if out is None else out
        self._multiply(x, out, add=False)
        return out

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        self._multiply(x, sums, add=True)

    def _multiply(self, x: Tensor, out: Tensor, *, add: bool) -> None:
        check(x, out)
        rows = len(x)
        quantised = torch.empty(x.shape, dtype=SEVEN_BITS.dtype)
        scales = self._rows.quantise(x, quantised, SEVEN_BITS).float()
        blocks = torch.empty(-(-rows // _LANES), self._steps, _LANES * _STEP, dtype=SEVEN_BITS.dtype)
        threads = min(torch.get_num_threads(), 1 + rows * self._inputs * self._outputs // _PRODUCTS_PER_THREAD)
        multiply = self._library.multiply_float32 if x.dtype == torch.float32 else self._library.multiply_bfloat16
        laid = self._weights, self._at, self._counts, self._base, self._scales
        pointers = (each.data_ptr() for each in (blocks, *laid))
        multiply(
            quantised.data_ptr(), scales.data_ptr(), rows, self._inputs, *pointers, self._outputs,
            out.data_ptr(), out.stride(0), add, threads,
        )  # fmt: skip


@cache
def _library() -> ctypes.CDLL:
    """The kernel compiled for this machine."""
    library = ctypes.CDLL(str(build("int8_avx2.cpp")))
    library.lay_out.argtypes, library.lay_out.restype = _LAY_OUT, None
    for multiply in (library.multiply_float32, library.multiply_bfloat16):
        multiply.argtypes, multiply.restype = _MULTIPLY, None
    return library
