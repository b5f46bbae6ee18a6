"""What all gateways together hold back, as far as one replica has heard."""

from __future__ import annotations

import time
from collections.abc import Callable

# A gateway with a backlog speaks at least every second, so one unheard for so long is gone, or has none.
FORGET_SECONDS = 15.0


class GatewayBacklogs:
    """The latest number of held-back tokens of each gateway; `clock` gives monotonic seconds.

    A number unheard for `forget_seconds` counts no more. To be used from one event loop.
    """

    def __init__(self, forget_seconds: float = FORGET_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._forget_seconds = forget_seconds
        self._clock = clock
        self._heard: dict[str, tuple[int, float]] = {}

    def hear(self, gateway: str, tokens: int) -> None:
        """`gateway` holds back `tokens` now."""
        self._heard[gateway] = (max(0, tokens), self._clock())

    def total(self, but: str | None = None) -> int:
        """Tokens that the gateways heard of lately hold back, all of them or all `but` one."""
        oldest = self._clock() - self._forget_seconds
        for gateway in [name for name, (_, at) in self._heard.items() if at <= oldest]:
            del self._heard[gateway]
        return sum(tokens for gateway, (tokens, _) in self._heard.items() if gateway != but)
