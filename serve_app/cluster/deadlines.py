"""The deadlines of all requests on one timer."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count

from serve_app.cluster.ticket import Request


class Deadlines:
    """Calls `expire` with every request that isn't done at its deadline (seconds of `clock`)."""

    def __init__(self, expire: Callable[[Request], None], clock: Callable[[], float]) -> None:
        self._expire = expire
        self._clock = clock
        self._heap: list[tuple[float, int, Request]] = []
        self._tie = count()
        self._timer: asyncio.Handle | None = None
        self._fires_at = math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request, live: int) -> None:
        """Watch a request; `live` is how many are not done, so that those done can be forgotten now and
        then."""
        if request.deadline == math.inf:
            return
        heapq.heappush(self._heap, (request.deadline, next(self._tie), request))
        if len(self._heap) > 2 * live + 64:
            self._heap = [entry for entry in self._heap if not entry[2].future.done()]
            heapq.heapify(self._heap)
        if request.deadline < self._fires_at:
            self._schedule()

    def clear(self) -> None:
        """Forget everything."""
        self._heap.clear()
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and self._heap[0][2].future.done():
            heapq.heappop(self._heap)
        self._fires_at = self._heap[0][0] if self._heap else math.inf
        if self._heap:
            delay = max(0.0, self._fires_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            request = heapq.heappop(self._heap)[2]
            if not request.future.done():
                self._expire(request)
        self._schedule()
