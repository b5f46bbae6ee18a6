"""What is on its way: the chunks that wait for a reply, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from serve_app.cluster.ticket import Chunk


class Flights:
    """The chunks in flight; `tokens` is their sum, what is sent twice counting twice."""

    def __init__(self) -> None:
        self.tokens = 0
        self._chunks: dict[Chunk, None] = {}  # in the order sent

    def __len__(self) -> int:
        return len(self._chunks)

    def board(self, chunk: Chunk) -> None:
        """The chunk is sent."""
        self.tokens += chunk.tokens
        self._chunks[chunk] = None
        this = (chunk,)
        for ticket in chunk.tickets:
            ticket.copies = (*ticket.copies, chunk) if ticket.copies else this

    def land(self, chunk: Chunk) -> None:
        """Its RPC has ended, one way or the other."""
        self.tokens -= chunk.tokens
        del self._chunks[chunk]
        for ticket in chunk.tickets:
            if len(ticket.copies) == 1:
                ticket.copies = ()
            else:
                ticket.copies = tuple([other for other in ticket.copies if other is not chunk])

    def sent_before(self, moment: float) -> Iterator[Chunk]:
        """The chunks sent before a moment, oldest first; nothing may board or land meanwhile."""
        return takewhile(lambda chunk: chunk.sent_at < moment, self._chunks)

    def at(self, replica: str) -> list[Chunk]:
        """The chunks that one replica has."""
        return [chunk for chunk in self._chunks if chunk.replica == replica]
