"""The dispatcher, in virtual time, over replicas whose vectors say which tokens they come from."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cluster.dispatcher import Dispatcher, Embedded, ReplicaLostError
from serve_app.cluster.replicas import ReplicaSet
from serve_app.engine.queue import QueuePolicy
from serve_app.errors import (
    DeadlineExceededError,
    EngineDeadError,
    EngineError,
    InternalError,
    NonFiniteError,
    UnavailableError,
)
from serve_app.types import ChunkReply, Envelope, Priority, ReplicaStatus, TokenIds
from tests import virtual_time

HIDDEN = 3
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
        ReplicaStatus(replica, 0, 100.0), rows, errors or {}, np.full(n, 0.25, np.float32), np.full(n, 0.5, np.float32)
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

    def marks(self) -> list[list[int]]:
        return [marks(envelope) for _, envelope in self.sent]


class Gateway:
    """A dispatcher with its replicas; nothing may be left in it at the end."""

    def __init__(self, *names: str, behave: Behaviour = in_a_second, slots: int = 1, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.wire = Wire(behave)
        self.view = ReplicaSet(slots_per_class=slots, clock=self.loop.time)
        self.dispatcher = Dispatcher(
            self.view,
            self.wire,
            gateway="here",
            hidden_size=HIDDEN,
            policy=POLICY,
            clock=self.loop.time,
            **({"chunk_tokens": 40, "chunk_inputs": 4} | options),
        )
        self.view.set_replicas(names)

    def embed(self, inputs: list[TokenIds], **options: Any) -> asyncio.Task[Embedded]:
        return self.loop.create_task(self.dispatcher.embed(inputs, **options))

    def assert_idle(self) -> None:
        dispatcher = self.dispatcher
        assert (dispatcher.queued_tokens, dispatcher.in_flight_tokens, len(dispatcher._queue)) == (0, 0, 0)
        assert (dispatcher._requests, len(dispatcher._tasks)) == (set(), 0)
        assert not any(self.wire.busy.values())
        for replica in self.view._replicas.values():
            assert (replica.in_flight, replica.tokens, any(replica.used.values())) == (0, 0, False)


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def in_virtual_time() -> None:
        virtual_time.run(asyncio.wait_for(test(), 1e6))

    in_virtual_time.__name__ = test.__name__
    return in_virtual_time


@virtually
async def test_requests_of_one_tick_share_a_chunk():
    gateway = Gateway("a")
    inputs = [tokens(5, mark) for mark in (1, 2, 3)]
    answers = await asyncio.gather(*[gateway.embed([each]) for each in inputs])
    assert gateway.wire.marks() == [[1, 2, 3]]
    for each, answer in zip(inputs, answers, strict=True):
        assert answer.vectors.tolist() == vectors([each])
        assert answer.vectors.dtype == np.float32
        assert answer.queue_seconds.tolist() == [0.25]
        assert answer.inference_seconds.tolist() == [0.5]
    gateway.assert_idle()


@virtually
async def test_waiting_for_a_slot_is_queueing():
    gateway = Gateway("a")
    first = gateway.embed([tokens(5, 1)])
    await asyncio.sleep(0.5)
    second = gateway.embed([tokens(5, 2)])
    await asyncio.sleep(0.1)
    third = gateway.embed([tokens(5, 3)])
    await asyncio.sleep(0)
    assert (gateway.dispatcher.queued_tokens, gateway.dispatcher.in_flight_tokens) == (10, 5)
    assert gateway.dispatcher.oldest_age() == pytest.approx(0.1)
    answers = await asyncio.gather(first, second, third)
    assert gateway.wire.marks() == [[1], [2, 3]]
    assert [answer.queue_seconds[0] for answer in answers] == pytest.approx([0.25, 0.75, 0.65])


@virtually
async def test_a_large_request_is_cut_by_length_class_and_budget_and_spread():
    gateway = Gateway("a", "b", slots=2)
    inputs = [tokens(n, mark) for mark, n in enumerate([5, 30, 5, 500, 10, 10, 10, 30, 5, 5, 5], 1)]
    answer = await gateway.embed(inputs)
    assert answer.vectors.tolist() == vectors(inputs)
    assert sorted(gateway.wire.marks()) == [[1, 3, 5, 6], [2], [4], [7, 9, 10, 11], [8]]
    assert Counter(replica for replica, _ in gateway.wire.sent) == {"a": 2, "b": 3}
    assert (gateway.dispatcher.chunks_sent, gateway.dispatcher.inputs_sent) == (5, 11)
    assert gateway.loop.time() == 1.0
    gateway.assert_idle()


@virtually
async def test_no_more_chunks_in_flight_than_slots_and_lanes_do_not_share_them():
    gateway = Gateway("a", slots=2)
    bulk = gateway.embed([tokens(10, mark) for mark in range(1, 25)], priority=Priority.BULK)
    await asyncio.sleep(0.1)
    await gateway.embed([tokens(5, 99)])
    assert gateway.loop.time() == pytest.approx(1.1)
    await bulk
    assert gateway.loop.time() == 3.0
    assert gateway.wire.marks()[2] == [99]


@virtually
async def test_a_lane_without_slots_does_not_hold_up_the_others():
    gateway = Gateway("a")
    short = gateway.embed([tokens(10, mark) for mark in range(1, 9)])
    long = gateway.embed([tokens(50, 9)])
    await long
    assert gateway.loop.time() == 1.0
    await short


@virtually
async def test_the_envelope_says_what_the_replica_needs():
    gateway = Gateway("a")
    await asyncio.gather(
        gateway.embed([tokens(5, 1)], deadline=7.0),
        gateway.embed([tokens(20, 2), tokens(30, 3)], priority=Priority.BULK),
    )
    first, second, _ = [envelope for _, envelope in gateway.wire.sent]
    assert (first.gateway, first.time_left.tolist(), first.priority.tolist()) == ("here", [7.0], [0])
    assert (second.time_left.tolist(), second.priority.tolist(), second.gateway_queued_tokens) == ([math.inf], [1], 30)
    dtypes = [getattr(first, name).dtype for name in ("ids", "token_ids", "lengths", "time_left", "priority", "output")]
    assert dtypes == [np.uint64, np.int32, np.int32, np.float32, np.uint8, np.uint8]


@virtually
async def test_a_failed_input_fails_its_own_request_only_and_gives_up_the_rest():
    async def fail(replica: str, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(1.0 if len(gateway.wire.sent) == 1 else 2.0)
        bad = [row for row, mark in enumerate(marks(envelope)) if mark in (3, 2)]
        return reply_to(replica, envelope, {row: NonFiniteError(str(marks(envelope)[row])) for row in reversed(bad)})

    gateway = Gateway("a", "b", behave=fail)
    mine = gateway.embed([tokens(5, mark) for mark in range(2, 12)])
    other = gateway.embed([tokens(5, 20)])
    with pytest.raises(NonFiniteError, match="2"):
        await mine
    assert gateway.loop.time() == 1.0
    assert (await other).vectors.tolist() == vectors([tokens(5, 20)])
    await asyncio.sleep(5)
    assert gateway.wire.marks() == [[2, 3, 4, 5], [6, 7, 8, 9], [20]]
    assert gateway.wire.cancelled == [("b", [5, 6, 7, 8])]
    assert gateway.dispatcher.cancelled == 6
    gateway.assert_idle()


@virtually
async def test_the_inputs_of_a_lost_replica_go_first_and_elsewhere():
    async def lose_a(replica: str, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(0.5 if replica == "a" else 1.0)
        if replica == "a" and len(gateway.wire.sent) == 2:
            raise ReplicaLostError(replica)
        return reply_to(replica, envelope)

    gateway = Gateway("a", "b", behave=lose_a)
    inputs = [tokens(10, mark) for mark in range(1, 13)]
    answer = await gateway.embed(inputs)
    assert answer.vectors.tolist() == vectors(inputs)
    assert gateway.wire.marks() == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [9, 10, 11, 12]]
    assert [replica for replica, _ in gateway.wire.sent] == ["a", "b", "b", "a"]
    assert gateway.dispatcher.retries == 4
    ids = [envelope.ids.tolist() for _, envelope in gateway.wire.sent]
    assert ids[2] == ids[0]
    gateway.assert_idle()


@virtually
async def test_a_replica_whose_engine_died_is_lost_too():
    async def dead(replica: str, envelope: Envelope) -> ChunkReply:
        if replica == "b":
            return reply_to(replica, envelope)
        if len(gateway.wire.sent) > 1:
            raise EngineDeadError("gone")
        return reply_to(replica, envelope, {0: EngineDeadError("gone")})

    gateway = Gateway("a", behave=dead)
    request = gateway.embed([tokens(5, 1), tokens(5, 2)])
    await asyncio.sleep(2)
    gateway.view.set_replicas(["a", "b"])
    assert (await request).vectors.tolist() == vectors([tokens(5, 1), tokens(5, 2)])
    assert gateway.wire.marks() == [[1, 2], [1], [1]]


@virtually
async def test_an_input_is_sent_three_times_at_most():
    async def lose(replica: str, envelope: Envelope) -> ChunkReply:
        raise ReplicaLostError(replica)

    gateway = Gateway("a", "b", "c", "d", behave=lose)
    with pytest.raises(UnavailableError):
        await gateway.embed([tokens(5, mark) for mark in range(1, 7)])
    for mark in (1, 6):
        tried = [replica for replica, envelope in gateway.wire.sent if mark in marks(envelope)]
        assert len(tried) == len(set(tried)) == 3, "each time on another replica"
    await asyncio.sleep(1)
    gateway.assert_idle()


@virtually
async def test_retries_do_not_share_a_chunk_with_fresh_inputs():
    async def lose_once(replica: str, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(1.0)
        if len(gateway.wire.sent) == 1:
            raise ReplicaLostError(replica)
        return reply_to(replica, envelope)

    gateway = Gateway("a", behave=lose_once)
    first = gateway.embed([tokens(5, 1)])
    await asyncio.sleep(0.5)
    await asyncio.gather(first, gateway.embed([tokens(5, 2)]))
    assert gateway.wire.marks() == [[1], [1], [2]]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: setattr(reply, "vectors", reply.vectors[1:]),
        lambda reply: setattr(reply, "vectors", reply.vectors[:, 1:]),
        lambda reply: setattr(reply, "queue_seconds", reply.queue_seconds[1:]),
        lambda reply: setattr(reply, "inference_seconds", np.zeros(9, np.float32)),
        lambda reply: setattr(reply, "errors", {4: EngineError("x")}),
        lambda reply: setattr(reply, "version", 0),
    ],
)
def test_a_reply_that_does_not_match_its_chunk_is_an_internal_error(spoil: Callable[[ChunkReply], None]):
    async def mismatch(replica: str, envelope: Envelope) -> ChunkReply:
        reply = reply_to(replica, envelope)
        if 1 in marks(envelope):
            spoil(reply)
        return reply

    async def main() -> None:
        gateway = Gateway("a", behave=mismatch)
        requests = [gateway.embed([tokens(5, mark)]) for mark in range(1, 6)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(answer) for answer in answers] == [InternalError] * 4 + [Embedded]
        gateway.assert_idle()

    virtual_time.run(main())


@virtually
async def test_other_exceptions_fail_the_chunk():
    async def fail(replica: str, envelope: Envelope) -> ChunkReply:
        raise UnavailableError("no deployment") if 1 in marks(envelope) else KeyError("a bug")

    gateway = Gateway("a", behave=fail)
    with pytest.raises(UnavailableError, match="no deployment"):
        await gateway.embed([tokens(5, 1)])
    with pytest.raises(InternalError):
        await gateway.embed([tokens(5, 2)])
    assert gateway.view.available == ["a"]
    gateway.assert_idle()


@virtually
async def test_deadlines_are_kept_to_the_moment_queued_or_in_flight():
    gateway = Gateway("a", behave=lambda replica, envelope: asyncio.sleep(10, reply_to(replica, envelope)))
    ended: dict[int, float] = {}

    async def watch(mark: int, deadline: float) -> None:
        with pytest.raises(DeadlineExceededError):
            await gateway.embed([tokens(5, mark)], deadline=deadline)
        ended[mark] = gateway.loop.time()

    watching = [asyncio.create_task(watch(1, 4.0)), asyncio.create_task(watch(2, 7.0))]
    await asyncio.sleep(1)
    watching += [asyncio.create_task(watch(3, 3.0)), asyncio.create_task(watch(4, 2.0))]
    kept = gateway.embed([tokens(5, 5)], deadline=50.0)
    await asyncio.gather(*watching)
    assert ended == {4: 2.0, 3: 3.0, 1: 4.0, 2: 7.0}
    assert gateway.wire.cancelled == [("a", [1]), ("a", [2])]
    assert (await kept).vectors.tolist() == vectors([tokens(5, 5)])
    assert gateway.wire.marks() == [[1, 2], [5]]
    with pytest.raises(DeadlineExceededError):
        await gateway.embed([tokens(5, 6)], deadline=gateway.loop.time())
    gateway.assert_idle()


@virtually
async def test_a_client_that_left_is_not_computed_for():
    gateway = Gateway("a")
    left = gateway.embed([tokens(5, mark) for mark in range(1, 7)])
    stays = gateway.embed([tokens(5, 9)])
    await asyncio.sleep(0.5)
    left.cancel()
    assert (await stays).vectors.tolist() == vectors([tokens(5, 9)])
    assert left.cancelled()
    assert gateway.wire.marks() == [[1, 2, 3, 4], [9]]
    assert gateway.wire.cancelled == [("a", [1, 2, 3, 4])]
    assert gateway.dispatcher.cancelled == 6
    gateway.assert_idle()


@virtually
async def test_a_retry_nobody_waits_for_is_not_sent():
    async def lose(replica: str, envelope: Envelope) -> ChunkReply:
        raise ReplicaLostError(replica)

    gateway = Gateway("a", behave=lose)
    left = gateway.embed([tokens(5, 1)])
    await asyncio.sleep(0.5)
    assert gateway.dispatcher.queued_tokens == 5
    left.cancel()
    await asyncio.sleep(60)
    assert gateway.wire.marks() == [[1]]
    gateway.assert_idle()


@virtually
async def test_requests_wait_for_replicas_to_appear():
    gateway = Gateway()
    request = gateway.embed([tokens(5, 1)])
    await asyncio.sleep(30)
    gateway.view.set_replicas(["a"])
    assert (await request).queue_seconds.tolist() == [30.25]
    assert (await gateway.dispatcher.embed([])).vectors.shape == (0, HIDDEN)


@virtually
async def test_close_fails_what_is_left():
    gateway = Gateway("a")
    requests = [gateway.embed([tokens(5, mark)], deadline=99.0) for mark in range(1, 9)]
    await asyncio.sleep(0.5)
    await gateway.dispatcher.close()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(answer) for answer in answers] == [UnavailableError] * 8
    with pytest.raises(UnavailableError):
        await gateway.dispatcher.embed([tokens(5, 1)])
    gateway.assert_idle()


@virtually
async def test_a_chunk_belongs_to_no_request():
    whose: ContextVar[str] = ContextVar("whose", default="nobody's")
    seen = []

    async def look(replica: str, envelope: Envelope) -> ChunkReply:
        seen.append(whose.get())
        return reply_to(replica, envelope)

    gateway = Gateway("a", behave=look)
    whose.set("this request's")
    await gateway.embed([tokens(5, 1)])
    assert seen == ["nobody's"]


@virtually
async def test_finished_requests_are_not_remembered_until_their_deadline():
    gateway = Gateway("a", behave=lambda replica, envelope: asyncio.sleep(0, reply_to(replica, envelope)))
    for mark in range(1, 1000):
        await gateway.embed([tokens(1, mark)], deadline=1e5)
    assert len(gateway.dispatcher._deadlines) <= 66
    assert gateway.loop.time() == 0


@virtually
async def test_bulk_is_served_within_its_patience_under_a_flood_even_on_shared_slots():
    gateway = Gateway("a")
    acquire = gateway.view.try_acquire
    gateway.view.try_acquire = lambda lane, n, exclude: (
        None if gateway.dispatcher.in_flight_tokens else acquire(lane, n, exclude)
    )
    flood = [gateway.embed([tokens(5, mark)]) for mark in range(2, 60)]
    bulk = gateway.embed([tokens(5, 1)], priority=Priority.BULK)
    await asyncio.gather(*flood, bulk)
    assert [1] in gateway.wire.marks()[3:5]


sizes = st.lists(st.sampled_from([1, 4, 10, 11, 39, 41, 99, 130]), min_size=1, max_size=12)
maybe = st.sampled_from([None, None, 0.3, 1.0, 2.5])
requests = st.tuples(st.sampled_from([0.0, 0.1, 0.7, 3.0]), sizes, st.sampled_from(Priority), maybe, maybe)
outcomes = st.tuples(
    st.sampled_from(["ok", "ok", "ok", "rows", "dead rows", "lost", "refused", "bug", "mismatch"]),
    st.sampled_from([0.0, 0.1, 1.0, 4.0]),
    st.integers(0, 3),
)
memberships = st.tuples(st.sampled_from([0.1, 0.5, 2.0]), st.sets(st.sampled_from("abc")))
FAILURES = {"refused": UnavailableError, "bug": InternalError, "mismatch": InternalError}


class Script:
    """Plays requests against replicas that fail as drawn, and keeps the account of what each may be answered."""

    def __init__(self, outcomes: list[tuple[str, float, int]]) -> None:
        self.outcomes = iter(outcomes)
        self.losses: Counter[int] = Counter()
        self.sends: Counter[int] = Counter()
        self.may_fail: dict[int, set[type[Exception]]] = {}
        self.over: set[int] = set()
        self.next_mark = 1

    async def play(self, requests: list[tuple], memberships: list[tuple[float, set[str]]]) -> None:
        self.gateway = Gateway("a", "b", behave=self.behave, slots=2)
        self.loop = self.gateway.loop
        playing = []
        membership = asyncio.create_task(self.change_replicas(memberships))
        for pause, sizes, priority, patience, leaves_after in requests:
            await asyncio.sleep(pause)
            inputs = [tokens(n, self.next_mark + i) for i, n in enumerate(sizes)]
            self.next_mark += len(sizes)
            playing.append(asyncio.create_task(self.ask(inputs, priority, patience, leaves_after)))
        await membership
        await asyncio.gather(*playing)
        await asyncio.sleep(100)  # late replies and cancellations on their way
        self.gateway.assert_idle()
        assert max(self.sends.values(), default=0) <= 3
        dispatcher = self.gateway.dispatcher
        assert dispatcher.inputs_sent == sum(self.sends.values())
        assert dispatcher.retries <= sum(self.losses.values())
        await dispatcher.close()

    async def change_replicas(self, memberships: list[tuple[float, set[str]]]) -> None:
        for pause, names in memberships:
            await asyncio.sleep(pause)
            self.gateway.view.set_replicas(names)
        await asyncio.sleep(1.0)
        self.gateway.view.set_replicas(["c", "d"])

    async def behave(self, replica: str, envelope: Envelope) -> ChunkReply:
        sent = marks(envelope)
        self.sends.update(sent)
        assert not self.over & set(sent), "sent for nobody"
        n = len(sent)
        assert n <= 4
        assert envelope.lengths.sum() <= 40 or n == 1
        assert max(self.gateway.wire.busy.values()) <= 2
        how, seconds, row = next(self.outcomes, ("ok", 1.0, 0))
        await asyncio.sleep(seconds)
        if how == "lost" or (how == "dead rows" and row < n):
            self.losses.update(sent if how == "lost" else sent[row:])
        if how == "lost":
            raise ReplicaLostError(replica)
        if how == "dead rows":
            return reply_to(replica, envelope, dict.fromkeys(range(row, n), EngineDeadError("gone")))
        if how == "rows":
            for mark in sent[row : row + 1]:
                self.may_fail.setdefault(mark, set()).add(NonFiniteError)
            return reply_to(replica, envelope, {i: NonFiniteError(str(sent[i])) for i in range(row, min(row + 1, n))})
        for mark in sent if how in FAILURES else ():
            self.may_fail.setdefault(mark, set()).add(FAILURES[how])
        if how == "refused":
            raise UnavailableError("no deployment")
        if how == "bug":
            raise KeyError("a bug")
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
            assert not self.may_fail.keys() & set(names), "a failed input was answered"
        elif isinstance(error, DeadlineExceededError):
            assert now == pytest.approx(deadline)
        elif isinstance(error, UnavailableError) and "repeatedly" in str(error):
            assert max(self.losses[mark] for mark in names) == 3
        else:
            assert any(type(error) in self.may_fail.get(mark, ()) for mark in names)


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(requests, min_size=1, max_size=12),
    outcomes=st.lists(outcomes, max_size=30),
    memberships=st.lists(memberships, max_size=5),
)
def test_every_request_is_answered_once_with_its_own_vectors(requests, outcomes, memberships):
    virtual_time.run(Script(outcomes).play(requests, memberships))
