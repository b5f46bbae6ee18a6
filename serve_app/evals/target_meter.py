"""What asking a target took."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Meter:
    """Counted by one thread. Latencies are what the caller waits for one answer, retries included, in seconds."""

    texts: int = 0
    cached: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    _tokens: dict[bytes, float | None] = field(default_factory=dict)

    def charged(self, key: bytes, tokens: float | None) -> None:
        """A text's share of the tokens; the same text counts once."""
        self._tokens[key] = tokens

    @property
    def tokens(self) -> int | None:
        """Of all different texts, those that were kept from an earlier run too; None if the target tells no tokens."""
        counts = list(self._tokens.values())
        if not counts or any(count is None for count in counts):
            return None
        return round(math.fsum(count for count in counts if count is not None))

    def percentile(self, share: float) -> float | None:
        return float(np.quantile(self.latencies, share)) if self.latencies else None


def shares(texts: list[str], tokens: int | None) -> list[float | None]:
    """`tokens` of a request spread over its texts by their length. Their sum is exact; each alone is an estimate."""
    if tokens is None:
        return [None] * len(texts)
    lengths = [len(text) + 1 for text in texts]
    whole = sum(lengths)
    return [tokens * length / whole for length in lengths]
