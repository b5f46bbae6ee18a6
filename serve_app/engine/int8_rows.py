"""Quantising the rows of int8 products and scaling what comes out. Which code does it is chosen here."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from serve_app.engine.native import check
from serve_app.engine.native_build import BuildError, build

logger = logging.getLogger(__name__)

_POINTER, _INDEX, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES: dict[str, list[Any]] = {
    "quantise": [_POINTER, _INDEX, _POINTER, _POINTER, _INDEX, _INDEX, _INT, _INT, _INT],
    "scale": [_POINTER, _INDEX, _POINTER, _POINTER, _INDEX, _INDEX, _INDEX, _INT],
    "add": [_POINTER, _INDEX, _POINTER, _POINTER, _INDEX, _INDEX, _INDEX, _INT],
}
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_ELEMENTS_PER_THREAD = 16384  # below, waking another thread costs more than it saves
_LARGEST = 126  # by torch's calls, not 127: what bfloat16 rounds up from there would be 128, and that -128
_SMALLEST_SCALE = 1e-30  # of a row of zeros, or nearly


@dataclass(frozen=True, slots=True)
class Levels:
    """The numbers that a row is rounded to: from `zero - largest` to `zero + largest`, in a byte of `dtype`."""

    largest: int
    zero: int
    dtype: torch.dtype


EIGHT_BITS = Levels(127, 0, torch.int8)
# 1 to 127: what is left where a product has to be unsigned, and pairs of them fit 16 bits.
SEVEN_BITS = Levels(63, 64, torch.uint8)


class Rows(Protocol):
    """Threads may share it. Scales are one a row. A row with NaN or infinity comes out of a product as such, never finite."""

    def quantise(self, x: Tensor, out: Tensor, levels: Levels = EIGHT_BITS) -> Tensor:
        """Write `x` `[rows, n]` over its scales to `out` `[rows, n]`, contiguous, of `levels.dtype`; the scales `[rows, 1]` to
        multiply with."""

    def scale(self, product: Tensor, scales: Tensor, out: Tensor) -> None:
        """Write `product` `[rows, n]` times `scales` to `out`, of the same dtype."""

    def add(self, product: Tensor, scales: Tensor, sums: Tensor) -> None:
        """Add `product` `[rows, n]` times `scales` to `sums`, of the same dtype."""


class TorchRows:
    """By torch's own calls."""

    def quantise(self, x: Tensor, out: Tensor, levels: Levels = EIGHT_BITS) -> Tensor:
        """See `Rows`."""
        largest = min(levels.largest, _LARGEST)
        scales = x.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST_SCALE).div_(largest)
        out.copy_((x / scales).round_().add_(levels.zero))
        return scales

    def scale(self, product: Tensor, scales: Tensor, out: Tensor) -> None:
        """See `Rows`."""
        torch.mul(product, scales, out=out)

    def add(self, product: Tensor, scales: Tensor, sums: Tensor) -> None:
        """See `Rows`."""
        sums.addcmul_(product, scales)


class NativeRows:
    """By this package's kernels, one pass over memory each. Tensors are float32 or bfloat16, their last dimension contiguous."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._calls = {}
        for name, types in _SIGNATURES.items():
            for dtype, suffix in _DTYPES.items():
                call = library[f"{name}_{suffix}"]
                call.argtypes, call.restype = types, None
                self._calls[name, dtype] = call

    def quantise(self, x: Tensor, out: Tensor, levels: Levels = EIGHT_BITS) -> Tensor:
        """See `Rows`."""
        check(x)
        scales = torch.empty(len(x), 1)
        written = out.data_ptr(), scales.data_ptr()
        to = levels.largest, levels.zero
        self._calls["quantise", x.dtype](x.data_ptr(), x.stride(0), *written, *x.shape, *to, _threads(x))
        return scales

    def scale(self, product: Tensor, scales: Tensor, out: Tensor) -> None:
        """See `Rows`."""
        self._scaled("scale", product, scales, out)

    def add(self, product: Tensor, scales: Tensor, sums: Tensor) -> None:
        """See `Rows`."""
        self._scaled("add", product, scales, sums)

    def _scaled(self, name: str, product: Tensor, scales: Tensor, to: Tensor) -> None:
        check(product, to)
        source, target = (product.data_ptr(), product.stride(0)), (to.data_ptr(), to.stride(0))
        self._calls[name, product.dtype](*source, scales.data_ptr(), *target, *product.shape, _threads(product))


@cache
def pick_rows() -> Rows:
    """The kernels compiled for this machine, or torch's calls where they can't be; a warning then says why."""
    try:
        return NativeRows(ctypes.CDLL(str(build("int8.cpp"))))
    except (BuildError, OSError) as error:
        logger.warning("int8 quantises by separate torch calls, which is slower: %s", error)
        return TorchRows()


def _threads(x: Tensor) -> int:
    return min(torch.get_num_threads(), 1 + x.numel() // _ELEMENTS_PER_THREAD)
