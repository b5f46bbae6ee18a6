"""Where the limits of keys are counted: in this gateway, or for all of them in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from serve_app.access.key import Ask
from serve_app.access.window import Taken, Window


class Limiter(Protocol):
    """Says who may have more."""

    def most(self, limit: int) -> int:
        """How much of a limit there is here now."""

    def ever(self, limit: int) -> int:
        """How much of it one request can ever get here: for more, no wait helps."""

    async def take(self, asked: Sequence[Ask]) -> list[Taken]:
        """The answer to each, in their order; all of them at the same moment."""


class ShareLimiter:
    """Counts in this process, up to its share: the limit over the number of gateways, at least 1."""

    def __init__(self, gateways: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.gateways = gateways
        self._clock = clock
        self._windows: dict[tuple[str, str], Window] = {}

    def most(self, limit: int) -> int:
        """This gateway's share of a limit."""
        return max(1, limit // self.gateways)

    def ever(self, limit: int) -> int:
        """The same."""
        return self.most(limit)

    async def take(self, asked: Sequence[Ask]) -> list[Taken]:
        """See `Limiter.take`."""
        return self.take_now(asked)

    def take_now(self, asked: Sequence[Ask]) -> list[Taken]:
        """The same without waiting."""
        now, gateways = self._clock(), self.gateways
        return [
            self._window(name, kind).take(now, limit // gateways or 1, amount) for name, kind, limit, amount in asked
        ]

    def note(self, ask: Ask) -> None:
        """Count what was given elsewhere."""
        self._window(ask.name, ask.kind).add(int(self._clock()), ask.amount)

    def _window(self, name: str, kind: str) -> Window:
        window = self._windows.get((name, kind))
        if window is None:
            window = self._windows[name, kind] = Window()
        return window
