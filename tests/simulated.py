"""Replicas that compute, die, pause and resume, shared by several gateways, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from serve_app.cluster.ports import ReplicaLostError, ReplicaRefusedError
from serve_app.errors import ReplicaOccupiedError, StaleReplicaError
from serve_app.types import ChunkReply, Envelope, Ping, ReplicaStatus
from tests.dispatching import Gateway, marks, reply_to

T = TypeVar("T")


@dataclass(eq=False)
class Replica:
    """One simulated replica. A chunk takes `seconds`; one that holds an input from `poison` kills it half way. While it is
    `stuck` it answers pings, but no chunk, and what it has stays outstanding."""

    name: str
    seconds: float = 0.1
    rate: float = 1000.0
    poison: frozenset[int] = frozenset()
    stale: bool = False
    stuck: bool = False
    computing: int = 0
    outstanding: int = 0
    carries_alone: bool = False
    computed: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running = asyncio.Event()
        self.running.set()

    async def embed(self, envelope: Envelope) -> ChunkReply:
        if self.stale:
            raise StaleReplicaError(self.name)
        if envelope.alone and self.carries_alone:
            raise ReplicaOccupiedError(self.name)
        self.carries_alone |= envelope.alone
        self.computing += 1
        tokens = int(envelope.lengths.sum())
        self.outstanding += tokens
        try:
            return await self._alive(self._compute(envelope))
        finally:
            self.computing -= 1
            if not self.stuck:
                self.outstanding -= tokens
            if envelope.alone:
                self.carries_alone = False

    async def ping(self) -> ReplicaStatus:
        await self._alive(self.running.wait())
        if self.stale:
            raise StaleReplicaError(self.name)
        return ReplicaStatus(self.name, self.outstanding, self.rate)

    def die(self) -> None:
        if not self.died.done():
            self.died.set_result(None)

    async def _compute(self, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(self.seconds / 2)
        await self.running.wait()
        if self.poison & set(marks(envelope)):
            self.die()
        await asyncio.sleep(self.seconds / 2)
        await self.running.wait()
        if self.stuck:
            await asyncio.Event().wait()
        self.computed.append(marks(envelope))
        reply = reply_to(self.name, envelope)
        reply.status = ReplicaStatus(self.name, self.outstanding - int(envelope.lengths.sum()), self.rate)
        return reply

    async def _alive(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self.died}, return_when=asyncio.FIRST_COMPLETED)
            if self.died.done():
                raise ReplicaLostError(self.name)
            return task.result()
        finally:
            task.cancel()


class Replicas:
    """A pool of them, and the transport of every gateway: `sent` is all that was sent, in order."""

    def __init__(self, *replicas: Replica) -> None:
        self.all = {replica.name: replica for replica in replicas}
        self.sent: list[tuple[str, Envelope]] = []
        self.cancelled: list[tuple[str, list[int]]] = []
        self.pings: list[tuple[str, Ping]] = []
        self.woken = asyncio.Event()

    def __getitem__(self, name: str) -> Replica:
        return self.all[name]

    def sends_of(self, mark: int) -> list[str]:
        """Where one input was sent, in order."""
        return [replica for replica, envelope in self.sent if mark in marks(envelope)]

    async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
        self.sent.append((replica, envelope))
        return await self._reachable(replica).embed(envelope)

    async def cancel(self, replica: str, gateway: str, ids: np.ndarray) -> None:
        self.cancelled.append((replica, ids.tolist()))

    async def ping(self, replica: str, ping: Ping) -> ReplicaStatus:
        self.pings.append((replica, ping))
        return await self._reachable(replica).ping()

    async def wake(self, ping: Ping) -> ReplicaStatus:
        self.pings.append(("any", ping))
        await self.woken.wait()
        return ReplicaStatus("any")

    def _reachable(self, name: str) -> Replica:
        if name not in self.all or self.all[name].died.done():
            raise ReplicaRefusedError(name)
        return self.all[name]


def gateway_to(replicas: Replicas, **options: Any) -> Gateway:
    """A dispatcher that has these replicas."""
    return Gateway(*replicas.all, transport=replicas, **options)


async def until(condition: Callable[[], object], seconds: float = 100.0) -> float:
    """Wait for a condition, looking often; how long it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        assert loop.time() < started + seconds, "never"
        await asyncio.sleep(0.01)
    return loop.time() - started
