"""The work ahead of a request in the whole cluster, pieced together from what one gateway knows."""

from __future__ import annotations

import math
from collections.abc import Callable

from serve_app.cluster.ports import Backlog
from serve_app.cluster.replicas import ReplicaSet
from serve_app.types import ReplicaStatus

# What other gateways were said to hold back counts for so long; a gateway in use hears of it far more often.
REMEMBERED_SECONDS = 5.0

# Every request asks; with many replicas the sum over them is worth keeping for a moment.
FRESH_SECONDS = 0.02


class ClusterBacklog:
    """Own backlog, the others' as the replicas tell it, and what the replicas have. `clock` gives monotonic seconds."""

    def __init__(self, view: ReplicaSet, clock: Callable[[], float]) -> None:
        self._view = view
        self._clock = clock
        self._others = 0
        self._heard_at = -math.inf
        self._elsewhere = Backlog()
        self._summed_at = -math.inf

    def hear(self, status: ReplicaStatus) -> None:
        """A replica gave its status."""
        self._others = status.gateways_queued_tokens
        self._heard_at = self._clock()

    def with_own(self, queued_tokens: int) -> Backlog:
        """The backlog, `queued_tokens` of it being this gateway's own."""
        now = self._clock()
        if now - self._summed_at >= FRESH_SECONDS:
            view = self._view
            others = self._others if now - self._heard_at < REMEMBERED_SECONDS else 0
            self._elsewhere = Backlog(0, others + view.outstanding_tokens, view.tokens_per_second, len(view.available))
            self._summed_at = now
        there = self._elsewhere
        return Backlog(queued_tokens, queued_tokens + there.cluster_tokens, there.tokens_per_second, there.replicas)
