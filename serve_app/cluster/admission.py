"""Whether the service takes one more request on, decided from the work that is ahead of it.

Refusing early is what keeps an overloaded service useful: those it takes on are answered in time, at its full rate, and those
it can't are told so at once, with the moment at which there will be room again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.cluster.ports import Backlog
from serve_app.errors import OverloadedError

# So much is taken on whatever its wait, per replica: a device needs full chunks at hand to work at its full rate, however slow.
FLOOR_CHUNKS = 4

# What a caller is told where no rate has been measured yet.
UNKNOWN_RATE_WAIT_SECONDS = 1.0

# Callers told the same moment would all come back in it; each is told a little more than needed.
SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most work that may be ahead of a request for it to be admitted; tokens, and seconds at the measured rate."""

    max_wait_seconds: float
    max_gateway_tokens: int
    max_cluster_tokens: int


class Admission:
    """Refuses requests while a bound is reached.

    A request is admitted whole, whatever its own size: what counts is the work ahead of it. `chunk_tokens` is the size of a full
    chunk. `jitter` gives numbers from 0 to 1. `on_refused` is told the bound that a request is refused by, as `Bounds` names it
    (`max_wait` for the time). `bounds` and `chunk_tokens` can be set at any time.
    """

    def __init__(
        self,
        bounds: Bounds,
        chunk_tokens: int,
        jitter: Callable[[], float] = random.random,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.bounds = bounds
        self.chunk_tokens = chunk_tokens
        self._jitter = jitter
        self._on_refused = on_refused

    def check(self, backlog: Backlog, tokenizing: int = 0) -> None:
        """Raises `OverloadedError` if a request that arrives now can't be taken on.

        `tokenizing` is what this gateway has admitted, but not yet queued, in tokens. The error's `retry_after` is when half of
        the bound that was reached will have been worked off: at the bound itself, callers would come back for one place each.
        """
        bounds, rate = self.bounds, backlog.tokens_per_second
        queued, cluster = backlog.queued_tokens + tokenizing, backlog.cluster_tokens + tokenizing
        wait, bound = -1.0, ""
        if queued >= bounds.max_gateway_tokens:
            # The cluster works off every gateway's queue at once, this one's in proportion.
            bound = "max_gateway_tokens"
            wait = seconds(queued - bounds.max_gateway_tokens / 2, rate * queued / max(queued, cluster))
        if cluster >= bounds.max_cluster_tokens:
            bound = bound or "max_cluster_tokens"
            wait = max(wait, seconds(cluster - bounds.max_cluster_tokens / 2, rate))
        floor = FLOOR_CHUNKS * self.chunk_tokens * max(1, backlog.replicas)
        if cluster >= floor and rate > 0 and cluster / rate >= bounds.max_wait_seconds:
            bound = bound or "max_wait"
            wait = max(wait, cluster / rate - bounds.max_wait_seconds / 2)
        if bound:
            self._on_refused(bound)
            wait *= 1 + SPREAD * self._jitter()
            raise OverloadedError(f"The service is overloaded. Try again in {wait:.1f} s.", wait)


def seconds(tokens: float, rate: float) -> float:
    """How long `tokens` take at `rate` tokens per second, 0 for unknown."""
    return tokens / rate if rate > 0 else UNKNOWN_RATE_WAIT_SECONDS
