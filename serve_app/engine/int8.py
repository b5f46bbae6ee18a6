"""int8 products on CPU: weights with one scale for each output channel, activations with one for each token.

A token's scale comes from that token alone, so that one with outliers changes nothing for its batch-mates. The products are
oneDNN's, through the operations that torch's own quantisation uses: sums are exact in int32, and scaled in float32. With
activations of 7 bits that holds on CPUs too that add pairs of products in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from serve_app.engine.int8_rows import EIGHT_BITS, Levels, Rows, pick_rows

_ROWS = 512  # multiplied at once: more, and what lies between two steps falls out of the cache
_MULTIPLE = 16  # of rows, as the instructions take them: every other number would need a kernel of its own, made when it first comes
_QUANTISED_AT_ONCE = 1024  # rows of weights, which float32 copies are made of


class Int8:
    """Weights `[out, in]` in int8; activations in `levels`. Takes and gives float32 or bfloat16."""

    def __init__(self, weight: Tensor, rows: Rows | None = None, levels: Levels = EIGHT_BITS) -> None:
        self._rows = rows or pick_rows()
        self._levels = levels
        quantised = torch.empty(weight.shape, dtype=torch.int8)
        scales = [self._rows.quantise(part, quantised[begin : begin + len(part)]) for begin, part in parts(weight)]
        self._weight: Tensor = torch.ops.onednn.qlinear_prepack(quantised, None)
        self._weight_scale = torch.cat(scales).flatten()
        self._weight_zero = torch.zeros(len(weight), dtype=torch.int64)
        self._one = torch.tensor(1.0)
        self._zero = torch.tensor(levels.zero)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        out = x.new_empty(len(x), len(self._weight_scale)) if out is None else out
        for rows, product, scales in self._products(x):
            self._rows.scale(product, scales, out[rows])
        return out

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        for rows, product, scales in self._products(x):
            self._rows.add(product, scales, sums[rows])

    def _products(self, x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """For some rows of `x` after others: which, their products without the scales of `x`, and these scales."""
        for begin in range(0, len(x), _ROWS):
            some = x[begin : begin + _ROWS]
            count = len(some)
            quantised = torch.empty(-(-count // _MULTIPLE) * _MULTIPLE, x.shape[1], dtype=self._levels.dtype)
            scales = self._rows.quantise(some, quantised[:count], self._levels)
            weight = self._weight, self._weight_scale, self._weight_zero
            product = torch.ops.onednn.qlinear_pointwise(
                quantised, self._one, self._zero, *weight, None, 1.0, 0, x.dtype, "none", [], "none"
            )
            yield slice(begin, begin + count), product[:count], scales


def parts(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Some rows of `weight` `[out, in]` after others in float32, with the number of the first: copies are made of few at once."""
    for index, part in enumerate(weight.split(_QUANTISED_AT_ONCE)):
        yield index * _QUANTISED_AT_ONCE, part.float()
