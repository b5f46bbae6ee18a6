"""A dispatcher in virtual time, over replicas whose vectors say which tokens they come from."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np

from serve_app.cluster.dispatcher import Dispatcher, Embedded
from serve_app.cluster.ports import Transport
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.rules import DispatchRules
from serve_app.engine.queue import QueuePolicy
from serve_app.types import ChunkReply, Envelope, Ping, ReplicaStatus, TokenIds
from tests import virtual_time

HIDDEN = 3
RATE = 5.0
POLICY = QueuePolicy(class_bounds=(10, 100), class_patience_s=(0.0, 1.0, 5.0), bulk_patience_s=2.0)

Behaviour = Callable[[str, Envelope], Awaitable[ChunkReply]]


def tokens(n: int, mark: int) -> TokenIds:
    """An input of `n` tokens that no other has."""
    return np.full(n, mark, np.int32)


def vectors(inputs: list[TokenIds]) -> list[list[float]]:
    return [[float(each[0]), float(len(each)), 1.0] for each in inputs]


def unpack(envelope: Envelope) -> list[TokenIds]:
    return np.split(envelope.token_ids, np.cumsum(envelope.lengths)[:-1])


def marks(envelope: Envelope) -> list[int]:
    return [int(each[0]) for each in unpack(envelope)]


def reply_to(replica: str, envelope: Envelope, errors: dict[int, Exception] | None = None) -> ChunkReply:
    n = len(envelope.lengths)
    rows = np.array(vectors(unpack(envelope)), np.float32)
    for row in errors or ():
        rows[row] = 0
    return ChunkReply(
        ReplicaStatus(replica, 0, RATE), rows, errors or {}, np.full(n, 0.25, np.float32), np.full(n, 0.5, np.float32)
    )


async def in_a_second(replica: str, envelope: Envelope) -> ChunkReply:
    await asyncio.sleep(1.0)
    return reply_to(replica, envelope)


class Wire:
    """A transport that behaves as told, and remembers."""

    def __init__(self, behave: Behaviour = in_a_second) -> None:
        self.behave = behave
        self.sent: list[tuple[str, Envelope]] = []
        self.cancelled: list[tuple[str, list[int]]] = []
        self.busy: Counter[tuple[str, int]] = Counter()
        self.pings: list[tuple[str, Ping]] = []

    async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
        lane = POLICY.lane(int(envelope.lengths[0]), int(envelope.priority[0]))
        assert {POLICY.lane(int(n), int(p)) for n, p in zip(envelope.lengths, envelope.priority, strict=True)} == {lane}
        self.sent.append((replica, envelope))
        self.busy[replica, lane] += 1
        try:
            return await self.behave(replica, envelope)
        finally:
            self.busy[replica, lane] -= 1

    async def cancel(self, replica: str, gateway: str, ids: np.ndarray) -> None:
        assert (gateway, ids.dtype) == ("here", np.uint64)
        self.cancelled.append((replica, ids.tolist()))
        await asyncio.sleep(0.1)

    async def ping(self, replica: str, ping: Ping) -> ReplicaStatus:
        self.pings.append((replica, ping))
        return ReplicaStatus(replica, 0, RATE)

    async def wake(self, ping: Ping) -> ReplicaStatus:
        return await self.ping("any", ping)

    def marks(self) -> list[list[int]]:
        return [marks(envelope) for _, envelope in self.sent]


class Gateway:
    """A dispatcher with its replicas; nothing may be left in it at the end."""

    def __init__(
        self,
        *names: str,
        behave: Behaviour = in_a_second,
        slots: int = 1,
        transport: Transport | None = None,
        name: str = "here",
        **options: Any,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wire = Wire(behave)
        self.view = ReplicaSet(slots_per_class=slots, clock=self.loop.time)
        self.dispatcher = Dispatcher(
            self.view,
            transport or self.wire,
            gateway=name,
            hidden_size=HIDDEN,
            policy=POLICY,
            clock=self.loop.time,
            rules=DispatchRules(**({"chunk_tokens": 40, "chunk_inputs": 4} | options)),
        )
        self.view.set_replicas(names)

    def embed(self, inputs: list[TokenIds], **options: Any) -> asyncio.Task[Embedded]:
        return self.loop.create_task(self.dispatcher.embed(inputs, **options))

    def assert_idle(self) -> None:
        dispatcher = self.dispatcher
        assert (dispatcher.queued_tokens, dispatcher.in_flight_tokens, len(dispatcher._queue)) == (0, 0, 0)
        assert (
            len(dispatcher._requests),
            len(dispatcher._again),
            len(dispatcher._flights),
            len(dispatcher._tasks),
        ) == (0, 0, 0, 0)
        assert not any(self.wire.busy.values())
        for replica in self.view._replicas.values():
            assert (replica.in_flight, replica.tokens, any(replica.used.values())) == (0, 0, False)


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def in_virtual_time() -> None:
        virtual_time.run(asyncio.wait_for(test(), 1e6))

    in_virtual_time.__name__ = test.__name__
    return in_virtual_time
