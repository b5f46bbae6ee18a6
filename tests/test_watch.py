"""Who leaves the rotation, and what brings them back."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.cluster.ports import ReplicaRefusedError
from serve_app.cluster.rules import DispatchRules
from serve_app.cluster.silence import SilencePolicy
from serve_app.types import ChunkReply, Envelope, ReplicaStatus
from tests.dispatching import Gateway, reply_to, tokens, vectors, virtually
from tests.simulated import Replica, Replicas, gateway_to, until


@virtually
async def test_a_lost_replica_returns_when_it_answers_a_ping():
    gateway = Gateway("a")
    answers = iter([ReplicaRefusedError("no"), ReplicaRefusedError("no")])

    async def ping(replica: str, message: object) -> ReplicaStatus:
        when.append(gateway.loop.time())
        if (error := next(answers, None)) is not None:
            raise error
        return ReplicaStatus(replica, 0, 5.0)

    async def refuse_first(replica: str, envelope: Envelope) -> ChunkReply:
        if len(gateway.wire.sent) == 1:
            raise ReplicaRefusedError(replica)
        return reply_to(replica, envelope)

    when: list[float] = []
    gateway.wire.ping, gateway.wire.behave = ping, refuse_first
    answer = await gateway.embed([tokens(5, 1)])
    assert answer.vectors.tolist() == vectors([tokens(5, 1)])
    assert when == pytest.approx([0.5, 1.5, 3.5], abs=0.26), "after 0.5 s, then 1 s, then 2 s"
    assert gateway.view.available == ["a"]
    assert gateway.dispatcher.counters.deaths == 0
    assert gateway.dispatcher.counters.retries == 1


@virtually
async def test_a_stale_replica_stays_out():
    replicas = Replicas(Replica("old", stale=True), Replica("new"))
    gateway = gateway_to(replicas)
    for mark in range(1, 9):
        await gateway.embed([tokens(5, mark)])
        await asyncio.sleep(1)
    assert len([replica for replica, _ in replicas.sent if replica == "old"]) == 1
    assert gateway.view.available == ["new"]
    assert gateway.dispatcher.counters.deaths == 0
    gateway.view.set_replicas(["new"])
    await asyncio.sleep(10)
    gateway.assert_idle()


@virtually
async def test_a_replica_that_answers_pings_but_not_its_chunk_is_overtaken_and_distrusted():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas)
    await asyncio.gather(gateway.embed([tokens(100, 90)]), gateway.embed([tokens(100, 91)]))
    replicas["a"].stuck = True
    inputs = [tokens(5, mark) for mark in range(1, 9)]
    answers = await asyncio.gather(gateway.embed(inputs[:4]), gateway.embed(inputs[4:]))
    assert [answer.vectors.tolist() for answer in answers] == [vectors(inputs[:4]), vectors(inputs[4:])]
    took = gateway.loop.time()
    assert 1.0 <= took <= 2.0, "4 times the expected 20 ms and a second"
    assert gateway.view.available == ["b"]
    assert gateway.dispatcher.counters.duplicates == 4
    await asyncio.sleep(4)
    assert gateway.view.available == ["b"], "it answers pings, but has still not worked off what it had"
    assert replicas["a"].computing == 0
    assert await until(lambda: "a" in gateway.view.available) < 2, "it gets another chance after 5 s"
    again = [gateway.embed(inputs[:4]), gateway.embed(inputs[4:])]
    await asyncio.gather(*again)
    assert await until(lambda: "a" in gateway.view.available) > 8, "and the next one later"
    await asyncio.sleep(5)
    gateway.assert_idle()


@virtually
async def test_an_overdue_replica_that_has_worked_off_what_it_had_is_trusted_at_once():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas)
    await asyncio.gather(gateway.embed([tokens(100, 90)]), gateway.embed([tokens(100, 91)]))
    replicas["a"].seconds = 3.0
    await asyncio.gather(
        *[gateway.embed([tokens(5, mark) for mark in marks]) for marks in ([1, 2, 3, 4], [5, 6, 7, 8])]
    )
    assert gateway.view.available == ["b"]
    assert await until(lambda: "a" in gateway.view.available) < 1
    gateway.assert_idle()


@virtually
async def test_a_reply_brings_a_replica_back_whatever_becomes_of_its_pings():
    async def ping(replica: str, message: object) -> ReplicaStatus:
        raise ReplicaRefusedError(replica)

    gateway = Gateway("a", behave=lambda replica, envelope: asyncio.sleep(4, reply_to(replica, envelope)))
    gateway.wire.ping = ping
    request = gateway.embed([tokens(5, 1)])
    await until(lambda: not gateway.view.available)
    await request
    assert gateway.view.available == ["a"]
    assert len(gateway.wire.sent) == 1
    gateway.assert_idle()


@virtually
async def test_the_last_replica_is_not_given_up_for_being_slow():
    replicas = Replicas(Replica("a"))
    gateway = gateway_to(replicas)
    await gateway.embed([tokens(5, 1)])
    replicas["a"].seconds = 20.0
    await gateway.embed([tokens(5, 2)])
    assert gateway.dispatcher.counters.duplicates == 0
    assert len(replicas.sent) == 2
    assert gateway.view.available == ["a"]


@virtually
async def test_a_gateway_that_was_paused_itself_suspects_nobody():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas)
    request = gateway.embed([tokens(5, mark) for mark in range(1, 5)])
    await asyncio.sleep(0.01)
    # The clock jumps while nothing is read, as with a stopped process.
    gateway.loop._jumping.now += 60
    await request
    assert len(replicas.sent) == 1
    assert sorted(gateway.view.available) == ["a", "b"]


@virtually
async def test_rules_can_be_changed_while_serving():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas)
    gateway.dispatcher.configure(
        DispatchRules(chunk_tokens=10, chunk_inputs=2, silence=SilencePolicy(seconds=0.2, multiple=1.0))
    )
    replicas["a"].running.clear()
    await gateway.embed([tokens(5, mark) for mark in range(1, 5)])
    assert [len(envelope.lengths) for _, envelope in replicas.sent] == [2, 2, 2]
    assert gateway.loop.time() < 1.0
