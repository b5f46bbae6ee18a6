"""The proof of life: asked for once, shared, honest when it fails, and never a reason to wake a sleeping pool."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace

import pytest

from serve_app.cluster.health import ASKED_AT_ONCE, ReplicaHealth
from serve_app.cluster.ports import ReplicaLostError
from serve_app.types import Ping, ReplicaStatus
from tests import virtual_time


class Replicas:
    """Replicas by name; those in `silent` never answer, those in `gone` can't be reached."""

    def __init__(self, *names: str) -> None:
        self.listed = list(names)
        self.available = list(names)
        self.silent: set[str] = set()
        self.gone: set[str] = set()
        self.pinged: list[str] = []
        self.cancelled = 0
        self.replied_at = -math.inf

    async def ping(self, replica: str, ping: Ping) -> ReplicaStatus:
        assert ping.gateway == "g"
        self.pinged.append(replica)
        try:
            await (asyncio.Event().wait() if replica in self.silent else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if replica in self.gone:
            raise ReplicaLostError(replica)
        self.replied_at = time.monotonic()
        return ReplicaStatus(replica)


def health(replicas: Replicas, *, may_sleep: bool = False, fresh: float = 60, patience: float = 2.0) -> ReplicaHealth:
    return ReplicaHealth(replicas, replicas, lambda: Ping("g"), may_sleep=may_sleep, fresh=fresh, patience=patience)


async def test_one_ping_serves_all_who_ask_and_later_ones() -> None:
    replicas = Replicas("a")
    asked = health(replicas)
    assert await asyncio.gather(*(asked.reason() for _ in range(20))) == [None] * 20
    assert await asked.reason() is None
    assert replicas.pinged == ["a"]


async def test_a_reply_to_a_request_is_proof_enough() -> None:
    replicas = Replicas("a")
    replicas.replied_at = time.monotonic()
    assert await health(replicas).reason() is None
    assert replicas.pinged == []


async def test_lost_and_silent_replicas_are_reasons() -> None:
    replicas = Replicas("a", "b")
    asked = health(replicas, fresh=0, patience=0.02)
    replicas.gone = {"a", "b"}
    assert await asked.reason() == "no replica answers (ReplicaLostError)"
    replicas.gone, replicas.silent = {"a"}, {"b"}
    assert await asked.reason() == "no replica answered within 0.02 s"
    replicas.silent = set()
    assert await asked.reason() is None


async def test_hung_replicas_are_outvoted_by_one_that_answers_at_once() -> None:
    replicas = Replicas("a", "b", "c")
    replicas.silent, replicas.gone = {"a"}, {"b"}
    assert await health(replicas, patience=3600).reason() is None
    await asyncio.sleep(0)
    assert sorted(replicas.pinged) == ["a", "b", "c"]
    assert replicas.cancelled == 1


def test_others_are_asked_while_the_first_ones_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.shuffle", lambda names: names.sort())
    replicas = Replicas(*(f"r{n:02}" for n in range(3 * ASKED_AT_ONCE)))
    replicas.silent = set(replicas.listed[: 2 * ASKED_AT_ONCE])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        # Theirs only: threads of other tests go by the real one.
        for module in ("serve_app.cluster.health", __name__):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=loop.time))
        assert await health(replicas, patience=2.0).reason() is None
        assert loop.time() == pytest.approx(1.0)
        assert replicas.pinged == replicas.listed

    virtual_time.run(main())


async def test_those_out_of_the_rotation_are_asked_only_if_there_is_no_other() -> None:
    replicas = Replicas("a", "b")
    replicas.available = ["b"]
    assert await health(replicas).reason() is None
    assert replicas.pinged == ["b"]
    replicas = Replicas("a", "b")
    replicas.available, replicas.gone = [], {"a", "b"}
    assert await health(replicas, may_sleep=True).reason() == "no replica answers (ReplicaLostError)"


async def test_no_replica_is_well_only_where_the_pool_may_sleep_and_nobody_is_woken() -> None:
    replicas = Replicas()
    assert await health(replicas, may_sleep=True).reason() is None
    assert await health(replicas).reason() == "there is no replica"
    assert replicas.pinged == []
