"""Takes back what nobody waits for any more, wherever it is."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from serve_app.cluster.ports import Transport
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.resender import Resender
from serve_app.cluster.tasks import TaskGroup
from serve_app.cluster.ticket import Chunk, Ticket

logger = logging.getLogger(__name__)

CANCEL_SECONDS = 5.0


class Recall:
    """Drops tickets that are done: from the retry queue, and at the replicas that have them."""

    def __init__(self, view: ReplicaSet, transport: Transport, gateway: str, again: Resender, tasks: TaskGroup) -> None:
        self._view = view
        self._transport = transport
        self._gateway = gateway
        self._again = again
        self._tasks = tasks

    def drop(self, tickets: Sequence[Ticket]) -> None:
        """Take back every copy of these tickets. A replica that is out is not asked: its call ends once nobody waits for it."""
        in_flight: dict[Chunk, list[int]] = defaultdict(list)
        for ticket in tickets:
            self._again.discard(ticket)
            for chunk in ticket.copies:
                in_flight[chunk].append(ticket.id)
        for chunk, ids in in_flight.items():
            if not self._view.is_down(chunk.replica):
                self._tasks.spawn(self._cancel(chunk.replica, ids))
            elif not chunk.live():
                chunk.abandon()

    async def _cancel(self, replica: str, ids: list[int]) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._transport.cancel(replica, self._gateway, np.array(ids, np.uint64))
        except Exception:
            # The replica computes in vain; nobody waits for it.
            logger.debug("Cancelling at %s failed", replica, exc_info=True)
