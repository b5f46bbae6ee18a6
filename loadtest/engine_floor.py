"""The least time that a case can take on a device: its arithmetic at the ceiling, or its weights' way through memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.engine.model_config import ModelConfig

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "fp8": 1}


def forward_flops(config: ModelConfig, lengths: Sequence[int]) -> float:
    """Of a full causal forward over all tokens in all layers, as MFU counts them."""
    return sum(length * config.flops_per_token(length) for length in lengths)


def needed_flops(config: ModelConfig, lengths: Sequence[int]) -> float:
    """Of the vectors alone: the last layer needs most of its work at the last tokens only."""
    return config.embedding_flops(len(lengths), sum(lengths), sum(n * n for n in lengths))


@dataclass(frozen=True)
class Floor:
    """Seconds that the arithmetic and the memory traffic take at least. They can overlap, so the larger of both counts."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """No engine with these ceilings is faster."""
        return max(self.compute, self.memory)


def floor_of(
    config: ModelConfig,
    lengths: Sequence[int],
    dtype: str,
    flops_per_second: float,
    bytes_per_second: float,
    passes: int = 1,
) -> Floor:
    """The floor of embedding inputs of these lengths in so many forward passes.

    Memory: all linear weights once a pass, and each token's embedding row. States between the operations count nothing: an engine
    that fused everything would keep them on the chip. Compute: products in `dtype`, and attention at the same rate, which flatters
    attention.
    """
    weights = config.linear_parameters * BYTES[dtype] * passes
    rows = sum(lengths) * config.hidden_size * 2
    return Floor(needed_flops(config, lengths) / flops_per_second, (weights + rows) / bytes_per_second)
