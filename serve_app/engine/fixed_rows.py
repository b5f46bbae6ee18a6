"""A layer's arithmetic with results for a token that don't depend, to the last bit, on how many other tokens there are.

Libraries choose how to multiply and to sum by the number of rows, and each way rounds in another order. Here
the number is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.elementwise import Elementwise
from serve_app.engine.projection import Projection

CPU_ROWS = 32
CUDA_ROWS = 512


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
            yield begin, filled(x[begin : begin + self._rows], self._rows)


class FixedRowsElementwise:
    """What lies between products, `rows` rows at once in the same way."""

    def __init__(self, elementwise: Elementwise, rows: int) -> None:
        self._elementwise = elementwise
        self._rows = rows

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        for rows, into in zip(x.split(self._rows), out.split(self._rows), strict=True):
            full = filled(rows, self._rows)
            into.copy_(self._elementwise.norm(full, weight, eps, torch.empty_like(full))[: len(rows)])
        return out

    def turn_(self, heads: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> None:
        """See `Elementwise`."""
        for part, *angles in zip(*(x.split(self._rows) for x in (heads, cos, sin)), strict=True):
            full = filled(part, self._rows)
            full = full.clone() if full is part else full
            self._elementwise.turn_(full, weight, eps, *(filled(each, self._rows) for each in angles))
            part.copy_(full[: len(part)])

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        for rows, into in zip(gate_up.split(self._rows), out.split(self._rows), strict=True):
            full = filled(rows, self._rows)
            into.copy_(self._elementwise.gate(full, full.new_empty(self._rows, into.shape[1]))[: len(rows)])
        return out


def filled(x: Tensor, rows: int) -> Tensor:
    """`x` `[at most rows, ...]` with rows of zeros behind it, `x` itself if it needs none."""
    if len(x) == rows:
        return x
    full = x.new_zeros(rows, *x.shape[1:])
    full[: len(x)] = x
    return full


def normalised(x: Tensor, rows: int) -> Tensor:
    """`x` `[n, hidden]` with rows of length 1, so many at once."""
    return torch.cat([F.normalize(filled(part, rows), dim=-1)[: len(part)] for part in x.split(rows)])


def rows_on(device: torch.device) -> int:
    """How many rows are fixed: few cost little for short inputs, many for full batches."""
    return CUDA_ROWS if device.type == "cuda" else CPU_ROWS


def fixed_rows(project: Callable[[Tensor], Projection]) -> Callable[[Tensor], Projection]:
    """Makes the same projections as `project`, with a fixed number of rows for the device of their weights."""
    return lambda weight: FixedRows(project(weight), rows_on(weight.device))
