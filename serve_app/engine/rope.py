"""Rotary position embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from serve_app.engine.model_config import ModelConfig


class RotaryTable:
    """Cosines and sines of every position, computed once in float32 and kept in the computing dtype."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        positions = torch.arange(config.max_position_embeddings, dtype=torch.float32)
        angles = torch.outer(positions, 1.0 / config.rope_theta**exponents)
        self._cos = angles.cos().to(device, dtype)
        self._sin = angles.sin().to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines at `positions` (int64 `[tokens]`), each `[tokens, 1, head_dim / 2]` to go with
        all heads."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def rotate_(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate `heads` `[tokens, heads, head_dim]` in place: the first half of each head pairs with the
    second."""
    first, second = heads.chunk(2, dim=-1)
    crossed = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(crossed)
