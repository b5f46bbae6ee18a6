"""What becomes of a chunk that came back: its requests are answered, or fail, or are sent again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from serve_app.cluster.ports import ReplicaLostError, ReplicaRefusedError
from serve_app.cluster.recall import Recall
from serve_app.cluster.requests import OpenRequests
from serve_app.cluster.resender import OCCUPIED_SECONDS, Resender, stranded
from serve_app.cluster.ticket import Chunk, Ticket
from serve_app.cluster.watch import Watch
from serve_app.errors import (
    CrashingInputError,
    EngineDeadError,
    InternalError,
    ReplicaOccupiedError,
    RequestError,
    StaleReplicaError,
)
from serve_app.types import ChunkReply

logger = logging.getLogger(__name__)


class Outcomes:
    """Hands what a chunk brought to its `requests`, and what it didn't to `again`; `wake` is called when something waits there.

    `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        requests: OpenRequests,
        again: Resender,
        recall: Recall,
        watch: Watch,
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._requests = requests
        self._again = again
        self._recall = recall
        self._watch = watch
        self._wake = wake
        self._clock = clock

    def deliver(self, chunk: Chunk, reply: ChunkReply) -> None:
        """A chunk was answered."""
        dead = []
        for i, error in sorted(reply.errors.items(), key=lambda item: chunk.tickets[item[0]].row):
            if isinstance(error, EngineDeadError):
                dead.append(chunk.tickets[i])
            elif not chunk.tickets[i].done:
                self._requests.fail(chunk.tickets[i].request, error)
        if dead:
            self._lose(chunk, [ticket for ticket in dead if not ticket.done])
        for request in chunk.fill_in(reply):
            self._requests.answer(request)
        if chunk.again or chunk.overtaken or chunk.since:
            # The first answer wins: what is elsewhere is taken back.
            self._recall.drop([ticket for ticket in chunk.tickets if ticket.done])

    def fell(self, chunk: Chunk, error: Exception) -> None:
        """A chunk came back without vectors."""
        if isinstance(error, ReplicaLostError):
            self._lose(chunk, chunk.live())
        elif isinstance(error, ReplicaOccupiedError):
            self._again.occupied(chunk, self._clock())
            asyncio.get_running_loop().call_later(OCCUPIED_SECONDS, self._wake)
        elif isinstance(error, ReplicaRefusedError | StaleReplicaError | EngineDeadError):
            self._watch.lose(chunk.replica)
            self._again.untaken(chunk)
            self._wake()
        else:
            logger.error("A chunk of %d inputs failed", len(chunk.tickets), exc_info=error)
            for ticket in stranded(chunk):
                self._requests.fail(ticket.request, error if isinstance(error, RequestError) else InternalError())

    def _lose(self, chunk: Chunk, tickets: Sequence[Ticket]) -> None:
        self._watch.lose(chunk.replica)
        for cause in self._again.lost(chunk, tickets):
            self._requests.fail(cause.request, CrashingInputError(cause.row))
        self._wake()
