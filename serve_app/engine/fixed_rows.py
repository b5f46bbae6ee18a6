"""Products whose result for a token doesn't depend, to the last bit, on how many other tokens there are.

Libraries choose how to multiply by the number of rows, and each way rounds in another order. Here the number is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from serve_app.engine.projection import Projection

CPU_ROWS = 32
CUDA_ROWS = 256


class FixedRows:
    """A projection that is only ever given `rows` rows at once: the last of a batch are filled up, and the rest dropped."""

    def __init__(self, projection: Projection, rows: int) -> None:
        self._projection = projection
        self._rows = rows

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        parts = []
        for begin, part in self._filled(x):
            product = self._projection(part)[: len(x) - begin]
            if out is None:
                parts.append(product)
            else:
                out[begin : begin + len(product)] = product
        return torch.cat(parts) if out is None else out

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        for begin, part in self._filled(x):
            into = sums[begin : begin + self._rows]
            into.add_(self._projection(part)[: len(into)])

    def _filled(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, len(x), self._rows):
            part = x[begin : begin + self._rows]
            if len(part) < self._rows:
                filled = x.new_zeros(self._rows, x.shape[1])
                filled[: len(part)] = part
                part = filled
            yield begin, part


def fixed_rows(project: Callable[[Tensor], Projection]) -> Callable[[Tensor], Projection]:
    """Makes the same projections as `project`, with a fixed number of rows for the device of their weights."""
    return lambda weight: FixedRows(project(weight), CUDA_ROWS if weight.is_cuda else CPU_ROWS)
