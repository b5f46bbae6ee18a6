"""What is sent a second time: after its replica's death, or beside a silent replica, within the retry budget."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from serve_app.cluster.budget import RetryBudget
from serve_app.cluster.counters import Counters
from serve_app.cluster.flights import Flights
from serve_app.cluster.replicas import NOBODY, ReplicaSet
from serve_app.cluster.retries import RetryGroup, RetryQueue, grouped
from serve_app.cluster.ticket import Chunk, Ticket

logger = logging.getLogger(__name__)

# How soon a chunk that is to be alone is offered again to replicas that carry another such.
OCCUPIED_SECONDS = 0.05


class Resender:
    """Queues the inputs of chunks that fell through, and makes new chunks of them.

    An input is refused as the cause once `max_deaths` replicas died with it, the last while it was alone there; it is in flight at
    no more than `max_deaths` replicas at once.
    """

    def __init__(self, view: ReplicaSet, flights: Flights, budget: RetryBudget, counters: Counters) -> None:
        self.max_deaths = 3
        self._view = view
        self._flights = flights
        self._budget = budget
        self._counters = counters
        self._queue = RetryQueue()
        self._suspected: set[str] = set()  # the replicas that have one of our suspect chunks

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def inputs(self) -> int:
        """Inputs that wait to be sent again."""
        return sum(len(group.tickets) for group in self._queue)

    @property
    def tokens(self) -> int:
        """Tokens that wait to be sent again."""
        return self._queue.tokens

    def oldest_arrival(self, now: float) -> float:
        """When the input that waits longest came; `now` if none waits."""
        return min((ticket.arrival for group in self._queue for ticket in group.tickets), default=now)

    def discard(self, ticket: Ticket) -> bool:
        """Don't send a ticket again; False if it didn't wait for that."""
        return ticket.group is not None and self._queue.discard(ticket)

    def lost(self, chunk: Chunk, tickets: Sequence[Ticket]) -> list[Ticket]:
        """A replica died with these live tickets of its chunk: queue them again; returns those that are the cause."""
        self._counters.deaths += 1
        logger.warning("Replica %s was lost with %d inputs", chunk.replica, len(tickets))
        causes, again = [], []
        for ticket in tickets:
            ticket.lost_on += (chunk.replica,)
            if chunk.alone and len(ticket.lost_on) >= self.max_deaths:
                causes.append(ticket)
            elif not hopeful(ticket):
                self._queue.discard(ticket)
                again.append(ticket)
        self._counters.refused += len(causes)
        self._queue.add(grouped(chunk.lane, again, charged=True))
        return causes

    def untaken(self, chunk: Chunk) -> None:
        """A replica didn't take a chunk: queue its inputs again, at nobody's cost."""
        self._queue.add(grouped(chunk.lane, stranded(chunk), charged=False))

    def occupied(self, chunk: Chunk, now: float) -> None:
        """A replica had no room for a chunk that is to be alone: queue it for another one, or for a little later."""
        groups = grouped(chunk.lane, stranded(chunk), charged=False)
        for group in groups:
            group.avoid |= {chunk.replica}
            group.not_before = now + OCCUPIED_SECONDS
        self._queue.add(groups)

    def overtake(self, replica: str) -> None:
        """A replica is silent: queue what it has for another one, and give up what nobody waits for."""
        for chunk in self._flights.at(replica):
            if chunk.overtaken:
                continue
            live = chunk.live()
            if not live:
                chunk.abandon()
                continue
            chunk.overtaken = True
            again = [ticket for ticket in stranded(chunk) if len(ticket.copies) < self.max_deaths]
            self._queue.add(grouped(chunk.lane, again, charged=True))

    def back(self, replica: str, now: float) -> None:
        """A silent replica answers again: what still waits to be sent elsewhere needn't be."""
        for chunk in self._flights.at(replica):
            chunk.overtaken = False
            chunk.since = now
            for ticket in chunk.live():
                self.discard(ticket)

    def landed(self, chunk: Chunk) -> None:
        """A chunk is no longer in flight."""
        if chunk.suspect:
            self._suspected.discard(chunk.replica)

    def chunks(self, now: float) -> Iterator[Chunk]:
        """The chunks to send now, each with its slot taken."""
        full: set[tuple[int, frozenset[str], frozenset[str]]] = set()
        for group in self._queue:
            # Whoever has a copy of it already is silent, and so out of the rotation.
            never = frozenset(self._suspected) if group.suspect else NOBODY
            where = (group.lane, group.avoid, never)
            if group.not_before > now or where in full:
                continue
            if group.charged and not self._budget.allows(group.tokens, now):
                continue
            replica = self._view.try_acquire(group.lane, group.tokens, group.avoid, never)
            if replica is None:
                full.add(where)
            else:
                yield self._chunk(group, replica, now)

    def _chunk(self, group: RetryGroup, replica: str, now: float) -> Chunk:
        self._queue.remove(group)
        if group.charged:
            self._budget.spend(group.tokens, now)
        if group.suspect:
            self._suspected.add(replica)
        copies = sum([bool(ticket.copies) for ticket in group.tickets])
        self._counters.duplicates += copies
        self._counters.retries += len(group.tickets) - copies
        return Chunk(
            replica,
            group.lane,
            group.tokens,
            group.tickets,
            now,
            again=True,
            suspect=group.suspect,
            alone=group.alone,
        )


def stranded(chunk: Chunk) -> list[Ticket]:
    """Its tickets that somebody waits for and that are neither queued to be sent again nor with a replica thought to answer."""
    return [ticket for ticket in chunk.live() if ticket.group is None and not hopeful(ticket)]


def hopeful(ticket: Ticket) -> bool:
    """Whether a copy of it is with a replica that is thought to answer."""
    return any(not chunk.overtaken for chunk in ticket.copies)
