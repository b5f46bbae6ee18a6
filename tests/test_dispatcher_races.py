"""What happens in the same turn of the loop, or late: slots are given back, inputs are queued once, who works is not late."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.cluster.ports import ReplicaLostError
from serve_app.errors import ReplicaOccupiedError
from serve_app.types import ChunkReply, Envelope, ReplicaStatus
from tests.dispatching import Gateway, reply_to, tokens, virtually


@virtually
async def test_a_chunk_given_up_in_the_turn_it_is_sent_gives_its_slot_back():
    async def hang(replica: str, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(1e5)
        raise AssertionError

    gateway = Gateway("a", behave=hang)
    request = gateway.embed([tokens(3, 1)])
    await asyncio.sleep(0)  # the pump is scheduled

    def lost_and_failed() -> None:
        assert len(gateway.dispatcher._flights) == 1
        gateway.view.mark_unavailable("a")
        gateway.dispatcher._requests.fail_all(RuntimeError("deadline"))

    gateway.loop.call_soon(lost_and_failed)
    with pytest.raises(RuntimeError, match="deadline"):
        await request
    await asyncio.sleep(1)
    assert gateway.wire.sent == [], "the call was never begun"
    gateway.assert_idle()
    await gateway.dispatcher.close()


@virtually
async def test_a_late_refusal_to_carry_a_chunk_alone_queues_nothing_twice():
    sends = 0
    gate = asyncio.Event()

    async def behave(replica: str, envelope: Envelope) -> ChunkReply:
        nonlocal sends
        sends += 1
        if sends <= 2:
            raise ReplicaLostError(replica)
        if sends == 3:
            await gate.wait()
            raise ReplicaOccupiedError(replica)
        await asyncio.sleep(1)
        return reply_to(replica, envelope)

    async def silence(replica: str, ping: object) -> ReplicaStatus:
        await asyncio.sleep(1e4)
        raise AssertionError

    gateway = Gateway("a", "b", "c", behave=behave)
    gateway.wire.ping = silence  # type: ignore[method-assign]
    request = gateway.embed([tokens(3, 1)])
    await asyncio.sleep(4)
    assert (sends, gateway.dispatcher.queued_tokens) == (3, 3), (
        "the third replica is silent, so the input is queued again"
    )
    gate.set()
    await asyncio.sleep(0.02)
    assert gateway.dispatcher.queued_tokens == 3
    gateway.view.set_replicas(["d", "e"])
    await request
    await asyncio.sleep(5)
    assert (sends, gateway.dispatcher.queued_tokens) == (4, 0)
    await gateway.dispatcher.close()


@virtually
async def test_a_replica_that_answers_others_of_our_chunks_is_not_overdue():
    """Its own queue may let short inputs go first for longer than its speed lets expect."""

    async def behave(replica: str, envelope: Envelope) -> ChunkReply:
        long = int(envelope.lengths[0]) > 10
        await asyncio.sleep(8.0 if long else 0.5)
        reply = reply_to(replica, envelope)
        reply.status = ReplicaStatus(replica, 0, 1000.0)
        return reply

    gateway = Gateway("a", "b", behave=behave)
    for _ in range(2):  # both have measured their rate
        await gateway.embed([tokens(3, 1)])
    slow = [gateway.embed([tokens(50, mark)]) for mark in (2, 3)]
    left: set[str] = set()
    while not all(request.done() for request in slow):
        await asyncio.gather(*[gateway.embed([tokens(3, mark)]) for mark in (4, 5)])
        left |= {"a", "b"} - set(gateway.view.available)
    assert not left
    assert gateway.dispatcher.counters.duplicates == 0
    gateway.assert_idle()
    await gateway.dispatcher.close()


@virtually
async def test_all_replicas_late_at_once_are_not_all_taken_out():
    async def behave(replica: str, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(0.1 if int(envelope.token_ids[0]) == 1 else 30.0)
        reply = reply_to(replica, envelope)
        reply.status = ReplicaStatus(replica, 0, 1000.0)
        return reply

    gateway = Gateway("a", "b", behave=behave)
    for _ in range(2):
        await gateway.embed([tokens(3, 1)])
    requests = [gateway.embed([tokens(3, mark)], priority=mark % 2) for mark in (2, 3)]
    fewest = 2
    for _ in range(200):
        await asyncio.sleep(0.1)
        fewest = min(fewest, len(gateway.view.available))
    assert fewest == 1
    await asyncio.gather(*requests)
    await asyncio.sleep(60)
    gateway.assert_idle()
    await gateway.dispatcher.close()
