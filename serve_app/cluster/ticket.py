"""What the dispatcher keeps of a request: its inputs as tickets, the chunks they travel in, and the
answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from serve_app.engine.lane import QueuedInput
from serve_app.types import ENVELOPE_VERSION, ChunkReply, Envelope, TokenIds, Vectors

if TYPE_CHECKING:
    from serve_app.cluster.retries import RetryGroup


class Embedded(NamedTuple):
    """A request's answer, in the order of its inputs: `vectors` float32 `[n, hidden]`, the others float32
    `[n]`.

    `queue_seconds` counts from the request's arrival at the dispatcher to the start of the input's batch,
    less the way to the replica; `inference_seconds` is its batch's time in the engine.
    """

    vectors: Vectors
    queue_seconds: npt.NDArray[np.float32]
    inference_seconds: npt.NDArray[np.float32]


class EmbeddedTokens(NamedTuple):
    """A request's answer where all its tokens' vectors were asked for: `vectors` float32 `[tokens, hidden]` of each input, the others
    as in `Embedded`."""

    vectors: list[Vectors]
    queue_seconds: npt.NDArray[np.float32]
    inference_seconds: npt.NDArray[np.float32]


_GONE = Embedded(np.empty((0, 0), np.float32), np.empty(0, np.float32), np.empty(0, np.float32))


@dataclass(slots=True, eq=False)
class Ticket(QueuedInput):
    """One input of a request, until it is `done`: it has its vector, or nobody waits for it any more.

    It waits in the queue, or in `group` to be sent again, and is in flight in `copies`: more than one where a silent replica is
    being overtaken. `lost_on` names the replicas that died with it, one entry a death. `output` is an `Output`, `tenant` as in the
    envelope.
    """

    id: int
    row: int
    token_ids: TokenIds
    request: Request
    output: int = 0
    tenant: int = 0
    lost_on: tuple[str, ...] = field(default=(), init=False)
    copies: tuple[Chunk, ...] = field(default=(), init=False)
    group: RetryGroup | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)


class Request:
    """One call of `embed` or `embed_all`: a future, and the answer that chunks fill in row by row; `token_vectors` has float32
    `[tokens, hidden]` of each row, where those were asked for."""

    __slots__ = ("answer", "arrival", "deadline", "future", "left", "tickets", "token_vectors")

    def __init__(self, n: int, hidden_size: int, arrival: float, deadline: float, future: asyncio.Future[None]) -> None:
        self.answer = Embedded(np.empty((n, hidden_size), np.float32), np.empty(n, np.float32), np.empty(n, np.float32))
        self.arrival = arrival
        self.deadline = deadline
        self.future = future
        self.left = n
        self.tickets: list[Ticket] = []
        self.token_vectors: dict[int, Vectors] = {}

    def close(self) -> None:
        """Let go of what is large or refers back to here: the deadline list may remember the request for
        long."""
        self.tickets = []
        self.answer = _GONE
        self.token_vectors = {}


@dataclass(slots=True, eq=False)
class Chunk:
    """Tickets of one lane in one RPC.

    `again` if they are not sent for the first time, `suspect` if a replica has died with them, `alone` if several have. `landed`
    once its RPC has ended. `overtaken` once its tickets were queued to be sent elsewhere too; `since` is when its replica came back
    after that, if it did.
    """

    replica: str
    lane: int
    tokens: int
    tickets: Sequence[Ticket]
    sent_at: float
    again: bool = False
    suspect: bool = False
    alone: bool = False
    landed: bool = field(default=False, init=False)
    overtaken: bool = field(default=False, init=False)
    since: float = field(default=0.0, init=False)
    task: asyncio.Task[None] | None = field(default=None, init=False)

    def live(self) -> list[Ticket]:
        """The tickets that somebody waits for."""
        return [ticket for ticket in self.tickets if not ticket.done]

    def abandon(self) -> None:
        """End its RPC: nobody waits for it, and its replica may never answer."""
        if self.task is not None:
            self.task.cancel()

    def envelope(self, gateway: str, model: str, queued_tokens: int) -> Envelope:
        """What goes over the wire, with what this gateway holds back."""
        tickets = self.tickets
        n = len(tickets)
        tenants = [ticket.tenant for ticket in tickets]
        return Envelope(
            gateway=gateway,
            model=model,
            ids=np.array([ticket.id for ticket in tickets], np.uint64),
            token_ids=np.concatenate([ticket.token_ids for ticket in tickets], dtype=np.int32, casting="same_kind"),
            lengths=np.array([ticket.tokens for ticket in tickets], np.int32),
            time_left=np.array([ticket.request.deadline - self.sent_at for ticket in tickets], np.float32),
            priority=np.full(n, tickets[0].priority, np.uint8),
            output=np.array([ticket.output for ticket in tickets], np.uint8),
            gateway_queued_tokens=queued_tokens,
            alone=self.alone,
            tenants=np.array(tenants, np.uint64) if any(tenants) else None,
        )

    def check(self, reply: ChunkReply, hidden_size: int) -> None:
        """Raise ValueError unless every ticket, and nothing else, has its row in the reply."""
        n = len(self.tickets)
        if (
            reply.version != ENVELOPE_VERSION
            or reply.vectors.shape != (n, hidden_size)
            or reply.queue_seconds.shape != (n,)
            or reply.inference_seconds.shape != (n,)
            or not all(0 <= i < n for i in reply.errors)
            or not all(self._answered(i, ticket, reply) for i, ticket in enumerate(self.tickets) if ticket.output)
        ):
            raise ValueError(f"the reply of {self.replica} doesn't match the {n} inputs of its chunk")

    @staticmethod
    def _answered(i: int, ticket: Ticket, reply: ChunkReply) -> bool:
        """Whether an input that wants the vectors of its tokens has all of them, or an error."""
        found = reply.token_vectors.get(i)
        if found is None:
            return i in reply.errors
        return found.shape == (ticket.tokens, reply.vectors.shape[1])

    def fill_in(self, reply: ChunkReply) -> list[Request]:
        """Copy the reply's rows into the requests that still wait for them; returns those now complete."""
        complete = []
        queued = reply.queue_seconds.tolist()
        inference = reply.inference_seconds.tolist()
        for i, ticket in enumerate(self.tickets):
            if ticket.done or i in reply.errors:
                continue
            ticket.done = True
            request, row = ticket.request, ticket.row
            answer = request.answer
            if ticket.output:
                request.token_vectors[row] = reply.token_vectors[i]
            else:
                answer.vectors[row] = reply.vectors[i]
            answer.queue_seconds[row] = queued[i] + self.sent_at - request.arrival
            answer.inference_seconds[row] = inference[i]
            request.left -= 1
            if not request.left:
                complete.append(request)
        return complete
