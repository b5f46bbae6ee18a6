"""The gateway's dispatcher: inputs of many requests out in chunks to the replicas, one answer per request
back.

A chunk leaves when a replica has a free slot for its lane, with whatever waits at that moment. Embedding is idempotent, so what
a replica didn't answer is sent again: elsewhere after its death, and beside it once it is silent; the first answer wins.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from serve_app.cluster.budget import RetryBudget
from serve_app.cluster.cluster_backlog import ClusterBacklog
from serve_app.cluster.counters import Counters
from serve_app.cluster.flights import Flights
from serve_app.cluster.outcomes import Outcomes
from serve_app.cluster.ports import Backlog, Transport
from serve_app.cluster.recall import Recall
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.requests import OpenRequests
from serve_app.cluster.resender import Resender
from serve_app.cluster.rules import DispatchRules
from serve_app.cluster.tasks import TaskGroup
from serve_app.cluster.ticket import Chunk, Embedded, EmbeddedTokens, Request, Ticket
from serve_app.cluster.watch import Watch
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.errors import UnavailableError
from serve_app.types import ChunkReply, Output, Ping, Priority, ReplicaStatus, TokenIds

__all__ = ["Dispatcher", "Embedded"]

# Of the vectors of all tokens of a chunk; those of a single longer input are larger.
TOKEN_MESSAGE_BYTES = 64 * 2**20


class Dispatcher:
    """Sends the inputs of `embed` calls to replicas; to be used from one event loop.

    `clock` gives monotonic seconds, the unit of all deadlines.
    """

    def __init__(
        self,
        view: ReplicaSet,
        transport: Transport,
        *,
        gateway: str,
        model: str = "",
        hidden_size: int,
        rules: DispatchRules | None = None,
        policy: QueuePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = Counters()
        self._view = view
        self._transport = transport
        self._gateway = gateway
        self._model = model
        self._hidden_size = hidden_size
        self._clock = clock
        self._queue: InputQueue[Ticket] = InputQueue(policy)
        self._flights = Flights()
        self._tasks = TaskGroup()
        self._budget = RetryBudget()
        self._again = Resender(view, self._flights, self._budget, self.counters)
        self._recall = Recall(view, transport, gateway, self._again, self._tasks)
        self._requests = OpenRequests(self._queue, hidden_size, self._recall.drop, self.counters, clock)
        self._backlog = ClusterBacklog(view, clock)
        self._watch = Watch(
            view,
            transport,
            self._flights,
            ping=lambda: Ping(gateway, model, self.queued_tokens),
            on_status=self._backlog.hear,
            on_silent=self._again.overtake,
            on_back=lambda replica: self._again.back(replica, clock()),
            on_look=self._wake,
            on_failed=self.give_up,
            clock=clock,
        )
        self._outcomes = Outcomes(self._requests, self._again, self._recall, self._watch, self._wake, clock)
        self._pump_scheduled = False
        self._closed = False
        self.configure(rules or DispatchRules())
        view.subscribe(self._wake)

    def configure(self, rules: DispatchRules, policy: QueuePolicy | None = None) -> None:
        """Go by other rules, and in another order if there's a policy, from now on."""
        if policy is not None:
            self._queue.policy = policy
        self._chunk_tokens = rules.chunk_tokens
        self._chunk_inputs = rules.chunk_inputs
        # Chunks of theirs are smaller, where a full one would be a large message.
        self._requests.token_cost = -(-rules.chunk_tokens * 4 * self._hidden_size // TOKEN_MESSAGE_BYTES)
        self._again.max_deaths = rules.max_deaths
        self._watch.policy = rules.silence
        self._budget.share = rules.retry_budget
        # What one replica mostly holds of ours: full chunks of one lane.
        self._budget.floor = rules.chunk_tokens * self._view.slots_per_class

    @property
    def queued_inputs(self) -> int:
        """Inputs that wait for a slot."""
        return len(self._queue) + self._again.inputs

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for a slot."""
        return self._queue.tokens + self._again.tokens

    @property
    def in_flight_tokens(self) -> int:
        """Tokens sent and not answered yet, what is sent twice counting twice."""
        return self._flights.tokens

    def backlog(self) -> Backlog:
        """The work ahead of a request that arrives now."""
        return self._backlog.with_own(self.queued_tokens)

    def oldest_age(self) -> float:
        """Seconds that the longest waiting input has waited for a slot."""
        now = self._clock()
        return max(self._queue.oldest_age(now), now - self._again.oldest_arrival(now))

    async def embed(
        self,
        token_ids: Sequence[TokenIds],
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
        tenant: int = 0,
    ) -> Embedded:
        """The vectors of one request's inputs, or the error of the first input that failed. `tenant` as in the envelope.

        Raises `DeadlineExceededError` at the deadline, `CrashingInputError` if replica after replica died of an input,
        `UnavailableError` if the dispatcher is closed, and whatever error a replica gave an input. Cancelling the call gives up
        its inputs.
        """
        if self._closed:
            raise UnavailableError("The gateway is shutting down.")
        request = self._requests.open(token_ids, priority, deadline, tenant=tenant)
        answer = request.answer
        await self._end(request)
        return answer

    async def embed_all(
        self, token_ids: Sequence[TokenIds], *, priority: Priority = Priority.INTERACTIVE, deadline: float = math.inf
    ) -> EmbeddedTokens:
        """The vectors of all tokens of one request's inputs. Raises as `embed` does."""
        if self._closed:
            raise UnavailableError("The gateway is shutting down.")
        request = self._requests.open(token_ids, priority, deadline, Output.TOKENS)
        answer, found = request.answer, request.token_vectors
        await self._end(request)
        return EmbeddedTokens([found[row] for row in range(len(token_ids))], *answer[1:])

    def pump(self) -> None:
        """Send chunks until nothing waits or no slot is free; those sent again go first."""
        self._pump_scheduled = False
        now = self._clock()
        if self._again:
            for chunk in self._again.chunks(now):
                self._send(chunk)
        full: set[int] = set()
        while (lane := self._queue.leader(skip=full)) is not None:
            tickets = self._queue.peek(lane, self._chunk_tokens, self._chunk_inputs)
            tokens = sum([ticket.tokens for ticket in tickets])
            replica = self._view.try_acquire(lane, tokens)
            if replica is None:
                full.add(lane)
                continue
            self._queue.lead(lane, tickets, now)
            self._budget.sent(tokens, now)
            self._send(Chunk(replica, lane, tokens, tickets, now))
        self._watch.start()

    def give_up(self, error: Exception) -> None:
        """Fail what waits, for nobody will compute it; not while a replica that is leaving still has something."""
        if not self._flights:
            self._requests.fail_all(error)

    async def close(self) -> None:
        """Fail what is left with `UnavailableError` and take no more."""
        self._closed = True
        self._requests.fail_all(UnavailableError("The gateway is shutting down."))
        await self._watch.close()
        await self._tasks.cancel()

    async def _end(self, request: Request) -> None:
        self._wake()
        try:
            await request.future
        except asyncio.CancelledError:
            self._requests.drop(request)
            raise

    def _wake(self) -> None:
        # Not at once: what else arrives in this turn of the loop shares the chunks.
        if not self._pump_scheduled and (self._queue or self._again):
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self.pump)

    def _send(self, chunk: Chunk) -> None:
        self._flights.board(chunk)
        chunk.task = self._tasks.spawn(self._carry(chunk))
        # Cancelled before its first step, the task itself does nothing at all.
        chunk.task.add_done_callback(lambda _: self._land(chunk, None))

    async def _carry(self, chunk: Chunk) -> None:
        outcome: ChunkReply | Exception | None = None
        try:
            envelope = chunk.envelope(self._gateway, self._model, self.queued_tokens)
            self.counters.chunks_sent += 1
            self.counters.inputs_sent += len(chunk.tickets)
            outcome = await self._transport.send(chunk.replica, envelope)
            chunk.check(outcome, self._hidden_size)
        except Exception as error:
            outcome = error
        finally:
            self._land(chunk, outcome.status if isinstance(outcome, ChunkReply) else None)
        if isinstance(outcome, ChunkReply):
            self._watch.replied(chunk.replica)
            self._backlog.hear(outcome.status)
            self._outcomes.deliver(chunk, outcome)
        else:
            self._outcomes.fell(chunk, outcome)

    def _land(self, chunk: Chunk, status: ReplicaStatus | None) -> None:
        if not chunk.landed:
            chunk.landed = True
            self._flights.land(chunk)
            self._again.landed(chunk)
            self._view.release(chunk.replica, chunk.lane, chunk.tokens, status)
