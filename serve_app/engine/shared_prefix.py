"""The state of a prefix that many inputs begin with: all that the tokens behind it need to know of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrefix:
    """Keys (normalised and rotated) and values of a prefix's tokens, each `[layers, tokens, key_value_heads, head_dim]` in the
    model's dtype on its device. Never written to again, so that batches may share it."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        """Length of the prefix."""
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.keys.nbytes + self.values.nbytes
