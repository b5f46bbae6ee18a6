"""Whatever the replicas do, every call of `embed` ends with exactly its own vectors or an exception it may have, and nothing is
left behind."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cluster.ports import ReplicaLostError, ReplicaRefusedError
from serve_app.errors import (
    CrashingInputError,
    DeadlineExceededError,
    EngineDeadError,
    InternalError,
    NonFiniteError,
    ReplicaOccupiedError,
    StaleReplicaError,
    UnavailableError,
)
from serve_app.types import ChunkReply, Envelope, Ping, Priority, ReplicaStatus, TokenIds
from tests import virtual_time
from tests.dispatching import RATE, Gateway, marks, reply_to, tokens, vectors

sizes = st.lists(st.sampled_from([1, 4, 10, 11, 39, 41, 99, 130]), min_size=1, max_size=12)
maybe = st.sampled_from([None, None, 0.3, 1.0, 2.5, 8.0])
requests = st.tuples(st.sampled_from([0.0, 0.1, 0.7, 3.0]), sizes, st.sampled_from(Priority), maybe, maybe)
WELL = ["ok", "ok", "ok", "hang", "rows"]
ILL = ["dead rows", "lost", "lost", "refused", "stale", "occupied", "unavailable", "bug", "mismatch"]
outcomes = st.tuples(st.sampled_from([*WELL, *ILL]), st.sampled_from([0.0, 0.1, 1.0, 4.0]), st.integers(0, 3))
pings = st.tuples(st.sampled_from(["ok", "ok", "hang", "refused", "lost"]), st.sampled_from([0.0, 0.3, 2.0]))
memberships = st.tuples(st.sampled_from([0.1, 0.5, 2.0]), st.sets(st.sampled_from("abc")))
FAILURES = {"unavailable": UnavailableError, "bug": InternalError, "mismatch": InternalError}
RAISED = {
    "lost": ReplicaLostError,
    "refused": ReplicaRefusedError,
    "stale": StaleReplicaError,
    "occupied": ReplicaOccupiedError,
    "unavailable": UnavailableError,
    "bug": KeyError,
}
HANG_SECONDS = 20.0


class Script:
    """Plays requests against replicas that behave as drawn, and keeps the account of what each may be answered.

    A chunk with an input from `poison` is always lost.
    """

    def __init__(
        self, outcomes: list[tuple[str, float, int]], pings: list[tuple[str, float]], poison: set[int]
    ) -> None:
        self.poison = poison
        self.outcomes = iter(outcomes)
        self.pings = iter(pings)
        self.losses: Counter[int] = Counter()
        self.sends: Counter[int] = Counter()
        self.copies: Counter[int] = Counter()
        self.may_fail: dict[int, set[type[Exception]]] = {}
        self.over: set[int] = set()
        self.next_mark = 1

    async def play(self, requests: list[tuple], memberships: list[tuple[float, set[str]]]) -> None:
        self.gateway = Gateway("a", "b", behave=self.behave, slots=2)
        self.gateway.wire.ping = self.ping
        self.loop = self.gateway.loop
        playing = []
        membership = asyncio.create_task(self.change_replicas(memberships))
        for pause, sizes, priority, patience, leaves_after in requests:
            await asyncio.sleep(pause)
            inputs = [tokens(n, self.next_mark + i) for i, n in enumerate(sizes)]
            self.next_mark += len(sizes)
            playing.append(asyncio.create_task(self.ask(inputs, priority, patience, leaves_after)))
        await membership
        async with asyncio.timeout(3000):
            await asyncio.gather(*playing)
        await asyncio.sleep(200)  # late replies and cancellations on their way
        self.gateway.assert_idle()
        dispatcher = self.gateway.dispatcher
        counters = dispatcher.counters
        assert counters.inputs_sent == sum(self.sends.values())
        assert counters.retries + counters.duplicates == sum(n - 1 for n in self.sends.values())
        assert counters.refused <= sum(n >= 3 for n in self.losses.values())
        await dispatcher.close()
        self.gateway.assert_idle()

    async def change_replicas(self, memberships: list[tuple[float, set[str]]]) -> None:
        for pause, names in memberships:
            await asyncio.sleep(pause)
            self.gateway.view.set_replicas(names)
        await asyncio.sleep(1.0)
        self.gateway.view.set_replicas(["c", "d"])

    async def ping(self, replica: str, ping: Ping) -> ReplicaStatus:
        how, seconds = next(self.pings, ("ok", 0.1))
        await asyncio.sleep(HANG_SECONDS if how == "hang" else seconds)
        if how in RAISED:
            raise RAISED[how](replica)
        return ReplicaStatus(replica, 0, RATE)

    async def behave(self, replica: str, envelope: Envelope) -> ChunkReply:
        sent = marks(envelope)
        self.sends.update(sent)
        self.copies.update(sent)
        try:
            assert not self.over & set(sent), "sent for nobody"
            assert len(sent) <= (1 if envelope.alone else 4)
            assert envelope.lengths.sum() <= 40 or len(sent) == 1
            assert max(self.gateway.wire.busy.values()) <= 2
            assert max(self.copies.values()) <= 3
            return await self.outcome(replica, envelope, sent)
        finally:
            self.copies.subtract(sent)

    async def outcome(self, replica: str, envelope: Envelope, sent: list[int]) -> ChunkReply:
        n = len(sent)
        how, seconds, row = next(self.outcomes, ("ok", 1.0, 0))
        if self.poison & set(sent):
            how = "lost"
        await asyncio.sleep(HANG_SECONDS if how == "hang" else seconds)
        if how == "lost" or (how == "dead rows" and row < n):
            self.losses.update(sent if how == "lost" else sent[row:])
        for mark in sent if how in FAILURES else ():
            self.may_fail.setdefault(mark, set()).add(FAILURES[how])
        if how in RAISED:
            raise RAISED[how](how)
        if how == "dead rows":
            return reply_to(replica, envelope, dict.fromkeys(range(row, n), EngineDeadError("gone")))
        if how == "rows":
            for mark in sent[row : row + 1]:
                self.may_fail.setdefault(mark, set()).add(NonFiniteError)
            return reply_to(replica, envelope, {i: NonFiniteError(str(sent[i])) for i in range(row, min(row + 1, n))})
        reply = reply_to(replica, envelope)
        if how == "mismatch":
            reply.vectors = reply.vectors[1:]
        return reply

    async def ask(
        self, inputs: list[TokenIds], priority: Priority, patience: float | None, leaves_after: float | None
    ) -> None:
        asked = self.loop.time()
        deadline = math.inf if patience is None else asked + patience
        task = self.gateway.embed(inputs, priority=priority, deadline=deadline)
        if leaves_after is not None:
            self.loop.call_later(leaves_after, task.cancel)
        await asyncio.wait([task])
        now, names = self.loop.time(), [int(each[0]) for each in inputs]
        self.over.update(names)
        assert now <= deadline + 1e-6
        if task.cancelled():
            assert leaves_after is not None
            assert now == pytest.approx(asked + leaves_after)
        elif (error := task.exception()) is None:
            assert task.result().vectors.tolist() == vectors(inputs)
            assert (task.result().inference_seconds == 0.5).all()
            assert not self.poison & set(names)
        elif isinstance(error, DeadlineExceededError):
            assert now == pytest.approx(deadline)
        elif isinstance(error, CrashingInputError):
            assert max(self.losses[mark] for mark in names) >= 3
        else:
            assert any(type(error) in self.may_fail.get(mark, ()) for mark in names)


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(requests, min_size=1, max_size=12),
    outcomes=st.lists(outcomes, max_size=40),
    pings=st.lists(pings, max_size=20),
    memberships=st.lists(memberships, max_size=5),
    poison=st.sets(st.integers(1, 20), max_size=2),
)
def test_every_request_is_answered_once_with_its_own_vectors(requests, outcomes, pings, memberships, poison):
    virtual_time.run(Script(outcomes, pings, poison).play(requests, memberships))
