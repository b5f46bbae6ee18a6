"""The dispatcher, in virtual time, over replicas whose vectors say which tokens they come from."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar

import numpy as np
import pytest

from serve_app.cluster.dispatcher import Embedded
from serve_app.errors import DeadlineExceededError, EngineError, InternalError, NonFiniteError, UnavailableError
from serve_app.types import ChunkReply, Envelope, Priority
from tests import virtual_time
from tests.dispatching import HIDDEN, Gateway, marks, reply_to, tokens, vectors, virtually


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
    assert (gateway.dispatcher.counters.chunks_sent, gateway.dispatcher.counters.inputs_sent) == (5, 11)
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
    assert gateway.dispatcher.counters.cancelled == 6
    gateway.assert_idle()


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
    assert gateway.dispatcher.counters.cancelled == 6
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
    assert len(gateway.dispatcher._requests._deadlines) <= 66
    assert gateway.loop.time() == 0


@virtually
async def test_bulk_is_served_within_its_patience_under_a_flood_even_on_shared_slots():
    gateway = Gateway("a")
    acquire = gateway.view.try_acquire
    gateway.view.try_acquire = lambda lane, n: None if gateway.dispatcher.in_flight_tokens else acquire(lane, n)
    flood = [gateway.embed([tokens(5, mark)]) for mark in range(2, 60)]
    bulk = gateway.embed([tokens(5, 1)], priority=Priority.BULK)
    await asyncio.gather(*flood, bulk)
    assert [1] in gateway.wire.marks()[3:5]
