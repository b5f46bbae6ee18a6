"""The requests that wait for their answer, each with its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

from serve_app.cluster.counters import Counters
from serve_app.cluster.deadlines import Deadlines
from serve_app.cluster.ticket import Request, Ticket
from serve_app.engine.queue import InputQueue
from serve_app.errors import DeadlineExceededError
from serve_app.types import Output, Priority, TokenIds


class OpenRequests:
    """Opens requests, their tickets in `queue`, and ends each exactly once. `clock` gives monotonic seconds.

    `on_dropped` gets the tickets of a request that ends without an answer. `token_cost` is what a token whose vector is wanted takes
    of a chunk's tokens; it can be set at any time.
    """

    def __init__(
        self,
        queue: InputQueue[Ticket],
        hidden_size: int,
        on_dropped: Callable[[Sequence[Ticket]], None],
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._hidden_size = hidden_size
        self._on_dropped = on_dropped
        self._counters = counters
        self._clock = clock
        self._open: set[Request] = set()
        self._deadlines = Deadlines(self._expire, clock)
        self._ids = count(1)
        self.token_cost = 1

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self,
        token_ids: Sequence[TokenIds],
        priority: Priority,
        deadline: float,
        output: Output = Output.POOLED,
        tenant: int = 0,
    ) -> Request:
        """Queue a request's inputs; its future ends with it. `tenant` as in the envelope.

        Raises `DeadlineExceededError` if the deadline has passed.
        """
        now = self._clock()
        if deadline <= now:
            raise DeadlineExceededError("The deadline passed before the request was dispatched.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = Request(len(token_ids), self._hidden_size, now, deadline, future)
        if not token_ids:
            future.set_result(None)
            return request
        kind = int(output)
        for row, ids in enumerate(token_ids):
            # The deadline is the request's, kept on one timer; the queue needn't watch every input.
            ticket = Ticket(len(ids), priority, float("inf"), now, next(self._ids), row, ids, request, kind, tenant)
            if kind:
                ticket.cost = self.token_cost * ticket.tokens
            request.tickets.append(ticket)
            self._queue.push(ticket)
        self._open.add(request)
        self._deadlines.add(request, live=len(self._open))
        return request

    def answer(self, request: Request) -> None:
        """All its vectors are there; whether anybody still waits for them or has just left."""
        if not request.future.done():
            request.future.set_result(None)
        self._forget(request)

    def fail(self, request: Request, error: Exception) -> None:
        """End it with an error, unless it has ended."""
        if not request.future.done():
            request.future.set_exception(error)
            self.drop(request)

    def fail_all(self, error: Exception) -> None:
        """End all with an error."""
        for request in [*self._open]:
            self.fail(request, error)
        self._deadlines.clear()

    def drop(self, request: Request) -> None:
        """Nobody waits for it any more."""
        tickets = [ticket for ticket in request.tickets if not ticket.done]
        for ticket in tickets:
            ticket.done = True
            if self._queue.discard(ticket) or ticket.group is not None or ticket.copies:
                self._counters.cancelled += 1
        self._forget(request)
        self._on_dropped(tickets)

    def _expire(self, request: Request) -> None:
        self.fail(request, DeadlineExceededError("The deadline passed before the vectors were ready."))

    def _forget(self, request: Request) -> None:
        self._open.discard(request)
        request.close()
