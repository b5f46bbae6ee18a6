"""The proof of life: asked for once, shared, and honest when it fails."""

from __future__ import annotations

import asyncio
import math
import time

from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.ports import ReplicaLostError


class Replica:
    def __init__(self) -> None:
        self.pings = 0
        self.error: Exception | None = None
        self.silent = False
        self.replied_at = -math.inf

    async def wake(self) -> None:
        self.pings += 1
        await (asyncio.Event().wait() if self.silent else asyncio.sleep(0))
        if self.error is not None:
            raise self.error
        self.replied_at = time.monotonic()


async def test_one_ping_serves_all_who_ask_and_later_ones() -> None:
    replica = Replica()
    health = ReplicaHealth(replica, fresh=60)
    assert await asyncio.gather(*(health.reason() for _ in range(20))) == [None] * 20
    assert await health.reason() is None
    assert replica.pings == 1


async def test_a_reply_to_a_request_is_proof_enough() -> None:
    replica = Replica()
    health = ReplicaHealth(replica, fresh=60)
    replica.replied_at = time.monotonic()
    assert await health.reason() is None
    assert replica.pings == 0


async def test_lost_and_silent_replicas_are_reasons() -> None:
    replica = Replica()
    health = ReplicaHealth(replica, fresh=0, patience=0.01)
    replica.error = ReplicaLostError("gone")
    assert await health.reason() == "no replica answers (ReplicaLostError)"
    replica.error, replica.silent = None, True
    assert await health.reason() == "no replica answered within 0.01 s"
    replica.silent = False
    assert await health.reason() is None
