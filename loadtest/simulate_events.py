"""Simulated time: a heap of things to happen, and stations that serve one thing after the other."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Events:
    """A discrete-event clock. `now` is in seconds; `handled` counts what has happened."""

    __slots__ = ("_heap", "_tie", "handled", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.handled = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tie = 0

    def __len__(self) -> int:
        return len(self._heap)

    def clock(self) -> float:
        """The time, for code that takes a clock."""
        return self.now

    def at(self, time: float, call: Callable[..., None], *args: object) -> None:
        """Call at `time`, after what was put there before. Raises ValueError for a time that has passed."""
        if time < self.now:
            raise ValueError(f"{time} s has passed: it's {self.now} s")
        self._tie += 1
        heapq.heappush(self._heap, (time, self._tie, call, args))

    def run(self, until: float) -> None:
        """Let everything happen up to and at `until`."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, call, args = pop(heap)
            self.handled += 1
            call(*args)
        self.now = max(self.now, until)


class Station:
    """Serves in order of arrival with `servers` at once. Costs no event: when a job is done is known when it arrives."""

    __slots__ = ("_free", "busy_seconds")

    def __init__(self, servers: int = 1) -> None:
        self.busy_seconds = 0.0
        self._free = [0.0] * servers

    def serve(self, now: float, seconds: float) -> float:
        """When a job that arrives `now` and takes `seconds` is done. Calls must come in order of time."""
        self.busy_seconds += seconds
        done = max(now, self._free[0]) + seconds
        heapq.heapreplace(self._free, done)
        return done
