"""Inputs to be sent again, apart from those that wait for the first time: they go ahead of them and never block them.

An input that was there when a replica died may be the cause. So the inputs of a lost chunk go on in groups of about the root of
their number, which costs the fewest inputs if one group is lost again; after a second death each goes by itself, alone at its
replica. Who dies with a third replica, and alone, is the cause.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from serve_app.cluster.ticket import Ticket

ALONE_AFTER_DEATHS = 2


@dataclass(slots=True, eq=False)
class RetryGroup:
    """Tickets of one lane with equally many deaths that are sent again together, not before `not_before` (monotonic seconds).

    `charged` to the retry budget, unless no replica has taken the chunk at all. `avoid` are the replicas to pass over where there
    are others. `tokens` are those that still wait.
    """

    lane: int
    tickets: list[Ticket]
    charged: bool
    avoid: frozenset[str] = frozenset()
    not_before: float = 0.0
    tokens: int = field(default=0, init=False)
    deaths: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.tokens = sum([ticket.tokens for ticket in self.tickets])
        self.deaths = len(self.tickets[0].lost_on)
        self.avoid = self.avoid.union(*[ticket.lost_on for ticket in self.tickets])

    @property
    def suspect(self) -> bool:
        return self.deaths > 0

    @property
    def alone(self) -> bool:
        return self.deaths >= ALONE_AFTER_DEATHS


def grouped(lane: int, tickets: Iterable[Ticket], *, charged: bool) -> list[RetryGroup]:
    """The tickets of one chunk in the groups to send them again in, by how many replicas died with them."""
    groups = []
    for deaths, some in groupby(sorted(tickets, key=_deaths), key=_deaths):
        alike = [*some]
        if not deaths:
            size = len(alike)
        elif deaths < ALONE_AFTER_DEATHS:
            size = math.isqrt(len(alike) - 1) + 1  # the root, rounded up
        else:
            size = 1
        groups += [RetryGroup(lane, alike[i : i + size], charged) for i in range(0, len(alike), size)]
    return groups


class RetryQueue:
    """Groups that wait to be sent again, first come, first served where they compete. `tokens` is their sum."""

    def __init__(self) -> None:
        self.tokens = 0
        self._groups: dict[RetryGroup, None] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[RetryGroup]:
        return iter([*self._groups])

    def add(self, groups: Sequence[RetryGroup]) -> None:
        """Queue groups behind those that wait."""
        for group in groups:
            self._groups[group] = None
            self.tokens += group.tokens
            for ticket in group.tickets:
                ticket.group = group

    def remove(self, group: RetryGroup) -> None:
        """A group's turn has come."""
        del self._groups[group]
        self.tokens -= group.tokens
        for ticket in group.tickets:
            ticket.group = None

    def discard(self, ticket: Ticket) -> bool:
        """Take one ticket out of its group; False if it waits in none."""
        group = ticket.group
        if group is None:
            return False
        ticket.group = None
        group.tickets.remove(ticket)
        group.tokens -= ticket.tokens
        self.tokens -= ticket.tokens
        if not group.tickets:
            del self._groups[group]
        return True


def _deaths(ticket: Ticket) -> int:
    return len(ticket.lost_on)
