"""A simulated gateway: one event loop that takes time, with the service's own queue and view of the replicas.

An asyncio loop takes whatever has arrived, works through it, and then runs the dispatcher's pump, which sends what waits while there
are slots. So does `_turn`, in one event: within a turn nothing outside is looked at, and `time` runs ahead of the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loadtest.simulate_costs import GatewayCosts
from loadtest.simulate_events import Events
from loadtest.simulate_work import Bundle, BundlePolicy, Chunk, Request, cut, within
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.types import Priority, ReplicaStatus


class View(Protocol):
    """The part of `ReplicaSet` that is used."""

    def try_acquire(self, lane: int, tokens: int) -> str | None: ...

    def release(self, replica: str, lane: int, tokens: int, status: ReplicaStatus | None) -> None: ...

    def set_replicas(self, ids: list[str]) -> None: ...


class Gateway:
    """`send` takes a chunk and when it left; `done` a request, when, and whether it was answered or refused.

    `admit`, if any, says when a request arrives whether to take it; `hear`, if any, is given each status.
    """

    def __init__(
        self,
        events: Events,
        number: int,
        costs: GatewayCosts,
        *,
        chunk_tokens: int,
        chunk_inputs: int,
        send: Callable[[Chunk, float], None],
        done: Callable[[Request, float, bool], None],
    ) -> None:
        self.number = number
        self.time = 0.0
        self.busy_seconds = 0.0
        self.chunks = 0
        self.inputs = 0
        self.view: View
        self.replicas = 0
        self.in_flight_tokens = 0
        self.admit: Callable[[], bool] | None = None
        self.hear: Callable[[ReplicaStatus], None] | None = None
        self.queue: InputQueue[Bundle] = InputQueue(BundlePolicy())
        self._policy = QueuePolicy()
        self._events = events
        self._costs = costs
        self._chunk_tokens = chunk_tokens
        self._chunk_inputs = chunk_inputs
        self._send = send
        self._done = done
        self._requests: list[tuple[Request, Priority]] = []
        self._replies: list[tuple[Chunk, ReplicaStatus]] = []
        self._scheduled = False

    def clock(self) -> float:
        """Seconds, within a turn those that the turn has taken so far."""
        return max(self.time, self._events.now)

    def receive(self, request: Request, priority: Priority) -> None:
        """A request arrives."""
        self._requests.append((request, priority))
        self.wake()

    def reply(self, chunk: Chunk, status: ReplicaStatus) -> None:
        """A chunk comes back."""
        self._replies.append((chunk, status))
        self.wake()

    def set_replicas(self, names: list[str]) -> None:
        """The list of replicas has changed."""
        self.replicas = len(names)
        self.view.set_replicas(names)
        self.wake()

    def wake(self) -> None:
        """Have a turn, now or after the one that runs."""
        if not self._scheduled:
            self._scheduled = True
            self._events.at(max(self._events.now, self.time), self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        requests, self._requests = self._requests, []
        replies, self._replies = self._replies, []
        self.time = started = self._events.now
        for chunk, status in replies:
            self._land(chunk, status)
        for request, priority in requests:
            self._accept(request, priority)
        self._pump()
        self.busy_seconds += self.time - started

    def _land(self, chunk: Chunk, status: ReplicaStatus) -> None:
        costs = self._costs
        self.time += costs.chunk / 2
        self.in_flight_tokens -= chunk.tokens
        if self.hear is not None:
            self.hear(status)
        self.view.release(chunk.replica, chunk.lane, chunk.tokens, status)
        for bundle in chunk.bundles:
            request = bundle.request
            request.left -= 1
            if not request.left:
                self.time += (costs.request + costs.input * request.inputs) / 2
                self._done(request, self.time, True)

    def _accept(self, request: Request, priority: Priority) -> None:
        costs = self._costs
        if self.admit is not None and not self.admit():
            self.time += costs.request / 2
            self._done(request, self.time, False)
            return
        self.time += (costs.request + costs.input * request.inputs) / 2
        lane = self._policy.lane(request.tokens_each, priority)
        for bundle in cut(request, lane, self.time, self._chunk_tokens, self._chunk_inputs):
            self.queue.push(bundle)

    def _pump(self) -> None:
        """As `Dispatcher.pump`."""
        queue, costs = self.queue, self._costs
        choosing = costs.choosing(self.replicas)
        full: set[int] = set()
        while (lane := queue.leader(skip=full)) is not None:
            bundles = queue.peek(lane, self._chunk_tokens, self._chunk_inputs)
            bundles = bundles[: within(bundles, self._chunk_inputs)]
            tokens = sum([bundle.tokens for bundle in bundles])
            replica = self.view.try_acquire(lane, tokens)
            self.time += choosing
            if replica is None:
                full.add(lane)
                continue
            queue.lead(lane, bundles, self.time)
            self.time += costs.chunk / 2
            chunk = Chunk(self.number, replica, lane, tokens, bundles, queue.tokens)
            self.in_flight_tokens += tokens
            self.chunks += 1
            self.inputs += chunk.inputs
            self._send(chunk, self.time)
