"""The gateway's dispatcher: inputs of many requests out in chunks to the replicas, one answer per request
back.

A chunk leaves when a replica has a free slot for its lane, with whatever waits at that moment; there is no
timer but for deadlines. Embedding is idempotent, so the inputs of a lost replica are simply sent again,
elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, takewhile

import numpy as np

from serve_app.cluster.deadlines import Deadlines
from serve_app.cluster.ports import ReplicaLostError, ReplicaRefusedError, ReplicaView, Transport
from serve_app.cluster.tasks import TaskGroup
from serve_app.cluster.ticket import Chunk, Embedded, Request, Ticket
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.errors import (
    DeadlineExceededError,
    EngineDeadError,
    InternalError,
    RequestError,
    StaleReplicaError,
    UnavailableError,
)
from serve_app.types import ChunkReply, Priority, TokenIds

__all__ = ["Dispatcher", "Embedded", "ReplicaLostError"]

logger = logging.getLogger(__name__)


class Dispatcher:
    """Sends the inputs of `embed` calls to replicas; to be used from one event loop.

    Chunks hold at most `chunk_tokens` tokens and `chunk_inputs` inputs. An input is sent at most
    `max_attempts` times. `clock` gives monotonic seconds, the unit of all deadlines. The counters are plain
    and only grow: `chunks_sent`; `inputs_sent`; `retries`, inputs queued again; `cancelled`, inputs given
    up before they had an answer.
    """

    def __init__(
        self,
        view: ReplicaView,
        transport: Transport,
        *,
        gateway: str,
        model: str = "",
        hidden_size: int,
        chunk_tokens: int = 16_384,
        chunk_inputs: int = 256,
        max_attempts: int = 3,
        policy: QueuePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_flight_tokens = 0
        self.chunks_sent = 0
        self.inputs_sent = 0
        self.retries = 0
        self.cancelled = 0
        self._view = view
        self._transport = transport
        self._gateway = gateway
        self._model = model
        self._hidden_size = hidden_size
        self._chunk_tokens = chunk_tokens
        self._chunk_inputs = chunk_inputs
        self._max_attempts = max_attempts
        self._clock = clock
        self._queue: InputQueue[Ticket] = InputQueue(policy)
        self._requests: set[Request] = set()
        self._deadlines = Deadlines(self._expire, clock)
        self._tasks = TaskGroup()
        self._ids = count(1)
        self._pump_scheduled = False
        self._closed = False
        view.subscribe(self._wake)

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for a slot."""
        return self._queue.tokens

    def oldest_age(self) -> float:
        """Seconds that the longest waiting input has waited for a slot."""
        return self._queue.oldest_age(self._clock())

    async def embed(
        self,
        token_ids: Sequence[TokenIds],
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
    ) -> Embedded:
        """The vectors of one request's inputs, or the error of the first input that failed.

        Raises `DeadlineExceededError` at the deadline, `UnavailableError` if every attempt lost its replica
        or the dispatcher is closed, and whatever error a replica gave an input. Cancelling the call gives
        up its inputs.
        """
        if self._closed:
            raise UnavailableError("The gateway is shutting down.")
        now = self._clock()
        if deadline <= now:
            raise DeadlineExceededError("The deadline passed before the request was dispatched.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        request = Request(len(token_ids), self._hidden_size, now, deadline, future)
        answer = request.answer
        if not token_ids:
            return answer
        for row, ids in enumerate(token_ids):
            # The deadline is the request's, kept on one timer; the queue needn't watch every input.
            ticket = Ticket(len(ids), priority, math.inf, now, next(self._ids), row, ids, request)
            request.tickets.append(ticket)
            self._queue.push(ticket)
        self._requests.add(request)
        self._deadlines.add(request, live=len(self._requests))
        self._wake()
        try:
            await future
        except asyncio.CancelledError:
            self._give_up(request)
            raise
        return answer

    def pump(self) -> None:
        """Send chunks until nothing waits or no slot is free."""
        self._pump_scheduled = False
        full: set[int] = set()
        now = self._clock()
        while (lane := self._queue.leader(skip=full)) is not None:
            tickets = self._queue.peek(lane, self._chunk_tokens, self._chunk_inputs)
            # Retries travel apart: an input that kills replicas takes down no others but its first companions.
            lost_on = tickets[0].lost_on
            tickets = [*takewhile(lambda ticket: ticket.lost_on == lost_on, tickets)]  # noqa: B023
            tokens = sum([ticket.tokens for ticket in tickets])
            replica = self._view.try_acquire(lane, tokens, lost_on)
            if replica is None:
                full.add(lane)
                continue
            self._queue.lead(lane, tickets, now)
            self._send(Chunk(replica, lane, tokens, tickets, now))

    async def close(self) -> None:
        """Fail what is left with `UnavailableError` and take no more."""
        self._closed = True
        for request in list(self._requests):
            self._fail(request, UnavailableError("The gateway is shutting down."))
        self._deadlines.clear()
        await self._tasks.cancel()

    def _wake(self) -> None:
        # Not at once: what else arrives in this turn of the loop shares the chunks.
        if self._queue and not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self.pump)

    def _send(self, chunk: Chunk) -> None:
        for ticket in chunk.tickets:
            ticket.chunk = chunk
        self.in_flight_tokens += chunk.tokens
        self.chunks_sent += 1
        self.inputs_sent += len(chunk.tickets)
        self._tasks.spawn(self._carry(chunk))

    async def _carry(self, chunk: Chunk) -> None:
        outcome: ChunkReply | Exception | None = None
        try:
            outcome = await self._transport.send(
                chunk.replica, chunk.envelope(self._gateway, self._model, self._queue.tokens)
            )
            chunk.check(outcome, self._hidden_size)
        except Exception as error:
            outcome = error
        finally:
            reply = outcome if isinstance(outcome, ChunkReply) else None
            self._land(chunk, reply)
        if isinstance(outcome, ChunkReply):
            self._deliver(chunk, outcome)
        elif isinstance(outcome, ReplicaLostError | ReplicaRefusedError | StaleReplicaError | EngineDeadError):
            self._lose(chunk, chunk.tickets)
        else:
            self._reject(chunk, outcome)

    def _land(self, chunk: Chunk, reply: ChunkReply | None) -> None:
        self.in_flight_tokens -= chunk.tokens
        for ticket in chunk.tickets:
            ticket.chunk = None
        status = None if reply is None else reply.status
        if status is not None and status.replica != chunk.replica:
            # Serve's router found the replica gone before it sent, and sent elsewhere.
            self._view.mark_unavailable(chunk.replica)
            status = None
        self._view.release(chunk.replica, chunk.lane, chunk.tokens, status)

    def _deliver(self, chunk: Chunk, reply: ChunkReply) -> None:
        tickets, errors = chunk.tickets, reply.errors
        for i in sorted(errors, key=lambda i: tickets[i].row):
            if not isinstance(errors[i], EngineDeadError):
                self._fail(tickets[i].request, errors[i])
        dead = [tickets[i] for i in sorted(errors) if isinstance(errors[i], EngineDeadError)]
        if dead:
            self._lose(chunk, dead)
        for request in chunk.fill_in(reply):
            request.future.set_result(None)
            self._forget(request)

    def _lose(self, chunk: Chunk, tickets: Sequence[Ticket]) -> None:
        self._view.mark_unavailable(chunk.replica)
        logger.warning("Replica %s was lost with %d inputs", chunk.replica, len(tickets))
        for ticket in tickets:
            if ticket.attempts >= self._max_attempts:
                self._fail(ticket.request, UnavailableError("The replicas failed repeatedly. Try again later."))
        again = []
        for ticket in tickets:
            if not ticket.request.future.done():
                lost_on = ticket.lost_on | {chunk.replica}
                retry = replace(ticket, attempts=ticket.attempts + 1, lost_on=lost_on)
                retry.request.tickets[retry.row] = retry
                again.append(retry)
        self.retries += len(again)
        self._queue.requeue(again)
        self._wake()

    def _reject(self, chunk: Chunk, error: Exception | None) -> None:
        logger.error("A chunk of %d inputs failed", len(chunk.tickets), exc_info=error)
        for ticket in chunk.tickets:
            self._fail(ticket.request, error if isinstance(error, RequestError) else InternalError())

    def _expire(self, request: Request) -> None:
        self._fail(request, DeadlineExceededError("The deadline passed before the vectors were ready."))

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.future.done():
            request.future.set_exception(error)
            self._give_up(request)

    def _give_up(self, request: Request) -> None:
        in_flight: dict[Chunk, list[int]] = defaultdict(list)
        for ticket in request.tickets:
            if self._queue.discard(ticket):
                self.cancelled += 1
            elif ticket.chunk is not None:
                in_flight[ticket.chunk].append(ticket.id)
        for chunk, ids in in_flight.items():
            self.cancelled += len(ids)
            self._tasks.spawn(self._cancel(chunk.replica, ids))
        self._forget(request)

    async def _cancel(self, replica: str, ids: list[int]) -> None:
        try:
            await self._transport.cancel(replica, self._gateway, np.array(ids, np.uint64))
        except Exception:
            # The replica computes in vain; nobody waits for it.
            logger.debug("Cancelling at %s failed", replica, exc_info=True)

    def _forget(self, request: Request) -> None:
        self._requests.discard(request)
        request.close()
