"""One linear layer of the model, whatever its weights are stored as."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Projection(Protocol):
    """A matrix that states are multiplied with. Threads may share it."""

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The product of `x` `[tokens, in]`: `[tokens, out]` in the dtype of `x`, in memory of its own or that of `out`."""

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """Add the product of `x` `[tokens, in]` to `sums` `[tokens, out]`, in place."""


class Dense:
    """Weights `[out, in]` as they are, in the dtype that is computed with."""

    def __init__(self, weight: Tensor) -> None:
        self._transposed = weight.t()

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        return torch.mm(x, self._transposed, out=out)

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        sums.addmm_(x, self._transposed)
