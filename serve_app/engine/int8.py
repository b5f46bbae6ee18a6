"""int8 products on CPU: weights with one scale for each output channel, activations with one for each token.

A token's scale comes from that token alone, so that one with outliers changes nothing for its batch-mates. The products are
oneDNN's, through the operations that torch's own quantisation uses: sums are exact in int32, and scaled in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 512  # multiplied at once: more, and what lies between two steps falls out of the cache
_LARGEST = 126  # not 127: what bfloat16 rounds up from there would be 128, and that -128
_SMALLEST_SCALE = 1e-30  # of a row of zeros, or nearly


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` `[rows, columns]` as int8 of the same shape, and scales `[rows, 1]` in the dtype of `x` to multiply it with."""
    scale = x.abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST_SCALE).div_(_LARGEST)
    return (x / scale).round_().to(torch.int8), scale


class Int8:
    """Weights `[out, in]` in int8. Takes and gives float32 or bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        quantised, scale = quantise_rows(weight.float())
        # No number of rows is fixed: the kernel is made for each that comes, and kept.
        self._weight: Tensor = torch.ops.onednn.qlinear_prepack(quantised, None)
        self._weight_scale = scale.flatten()
        self._weight_zero = torch.zeros(len(weight), dtype=torch.int64)
        self._one = torch.tensor(1.0)
        self._zero = torch.tensor(0)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        out = x.new_empty(len(x), len(self._weight_scale)) if out is None else out
        for rows, into in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
            quantised, scale = quantise_rows(rows)
            torch.mul(self._product(quantised, x.dtype), scale, out=into)
        return out

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        for rows, into in zip(x.split(_ROWS), sums.split(_ROWS), strict=True):
            quantised, scale = quantise_rows(rows)
            into.addcmul_(self._product(quantised, x.dtype), scale)

    def _product(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The product of `x` int8 `[rows, in]`, with the weights' scales but not its own: `[rows, out]` in `dtype`."""
        scales = self._one, self._zero, self._weight, self._weight_scale, self._weight_zero
        done: Tensor = torch.ops.onednn.qlinear_pointwise(x, *scales, None, 1.0, 0, dtype, "none", [], "none")
        return done
