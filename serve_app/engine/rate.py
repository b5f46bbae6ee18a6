"""How fast the engine is, while it works."""

from __future__ import annotations

import math

# Of busy time: long enough to average over batch sizes, short enough to follow the workload.
WINDOW_S = 10.0


class TokenRate:
    """Tokens per busy second, exponentially weighted; 0 before the first batch. `total` is every token counted so far.

    Each batch counts by its tokens too: what the rate is asked for is how fast waiting work will go, which goes in full
    batches, and a small batch says little of those.
    """

    __slots__ = ("_seconds", "_tokens", "total")

    def __init__(self) -> None:
        self.total = 0
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count a batch that took `seconds`."""
        kept = math.exp(-seconds / WINDOW_S)
        self.total += tokens
        self._tokens = self._tokens * kept + tokens * tokens
        self._seconds = self._seconds * kept + tokens * seconds

    @property
    def value(self) -> float:
        """Tokens per second."""
        return self._tokens / self._seconds if self._seconds else 0.0
