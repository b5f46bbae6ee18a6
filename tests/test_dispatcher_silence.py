"""What the dispatcher does about replicas that fall silent: what they have is sent elsewhere, and the first answer wins."""

from __future__ import annotations

import asyncio
import math

import pytest

from serve_app.errors import DeadlineExceededError, UnavailableError
from serve_app.types import ChunkReply, Envelope, Priority, ReplicaStatus
from tests.dispatching import Gateway, reply_to, tokens, vectors, virtually
from tests.simulated import Replica, Replicas, gateway_to, until


@virtually
async def test_a_silent_replica_is_overtaken_and_its_late_reply_ignored():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas, slots=2)
    replicas["a"].running.clear()
    first = [tokens(5, mark) for mark in range(1, 5)]
    second = [tokens(5, mark) for mark in range(5, 9)]
    answers = await asyncio.gather(gateway.embed(first), gateway.embed(second))
    assert [answer.vectors.tolist() for answer in answers] == [vectors(first), vectors(second)]
    assert 1.0 <= gateway.loop.time() <= 1.7
    assert gateway.view.available == ["b"]
    counters = gateway.dispatcher.counters
    assert (counters.duplicates, counters.retries, counters.deaths) == (4, 0, 0)
    await asyncio.sleep(1)
    assert gateway.dispatcher.in_flight_tokens == 0, "nobody waits for the paused one"
    for mark in range(10, 20):
        await gateway.embed([tokens(5, mark)])
    assert {replica for replica, _ in replicas.sent[2:]} == {"b"}
    replicas["a"].running.set()
    await until(lambda: sorted(gateway.view.available) == ["a", "b"], 6)
    await asyncio.sleep(1)
    gateway.assert_idle()


@virtually
async def test_the_first_answer_wins_even_if_it_is_the_late_one():
    replicas = Replicas(Replica("a"), Replica("b", seconds=3.0))
    gateway = gateway_to(replicas)
    replicas["a"].running.clear()
    inputs = [tokens(5, mark) for mark in range(1, 5)]
    request = gateway.embed(inputs)
    await until(lambda: gateway.dispatcher.counters.duplicates)
    ids = replicas.sent[0][1].ids.tolist()
    replicas["a"].running.set()
    assert (await request).vectors.tolist() == vectors(inputs)
    assert gateway.loop.time() < 3.0
    await asyncio.sleep(0)
    assert replicas.cancelled == [("b", ids)], "the loser is told to drop it"
    assert "a" in gateway.view.available
    await asyncio.sleep(5)
    gateway.assert_idle()


@virtually
async def test_a_duplicate_that_has_not_left_when_the_silent_replica_is_back_never_does():
    replicas = Replicas(Replica("a"))
    gateway = gateway_to(replicas)
    replicas["a"].running.clear()
    request = gateway.embed([tokens(5, 1)])
    await until(lambda: not gateway.view.available)
    assert gateway.dispatcher.queued_tokens == 5
    replicas["a"].running.set()
    await request
    assert len(replicas.sent) == 1
    assert gateway.dispatcher.counters.duplicates == 0
    await asyncio.sleep(1)
    gateway.assert_idle()


@virtually
async def test_all_replicas_silent_then_one_dies_and_the_other_resumes():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas)
    for replica in replicas.all.values():
        replica.running.clear()
    inputs = [tokens(5, mark) for mark in range(1, 9)]
    requests = [gateway.embed(inputs[:4]), gateway.embed(inputs[4:])]
    await until(lambda: not gateway.view.available)
    await asyncio.sleep(30)
    assert not any(request.done() for request in requests)
    assert len(replicas.sent) == 2
    replicas["a"].die()
    replicas["b"].running.set()
    answers = await asyncio.gather(*requests)
    assert [answer.vectors.tolist() for answer in answers] == [vectors(inputs[:4]), vectors(inputs[4:])]
    gateway.view.set_replicas(["b"])
    await asyncio.sleep(10)
    gateway.assert_idle()


@virtually
async def test_an_input_that_gets_replica_after_replica_stuck_is_with_three_of_them_at_most():
    replicas = Replicas(*[Replica(f"r{n}", stuck=True) for n in range(6)])
    gateway = gateway_to(replicas)
    with pytest.raises(DeadlineExceededError):
        await gateway.embed([tokens(5, 1)], deadline=200.0)
    assert len(replicas.sends_of(1)) == 3


@virtually
async def test_a_death_is_no_reason_to_send_a_third_copy_while_the_second_is_under_way():
    replicas = Replicas(Replica("a"), Replica("b", seconds=3.0, rate=1.0))
    gateway = gateway_to(replicas)
    replicas["a"].running.clear()
    request = gateway.embed([tokens(5, 1)])
    await until(lambda: gateway.dispatcher.counters.duplicates)
    replicas.all["c"] = Replica("c", rate=1.0)
    gateway.view.set_replicas(["a", "b", "c"])
    replicas["a"].die()
    await request
    assert replicas.sends_of(1) == ["a", "b"]
    assert gateway.dispatcher.counters.deaths == 1


@virtually
async def test_a_call_that_nobody_waits_for_ends_when_its_replica_falls_silent():
    replicas = Replicas(Replica("a"))
    gateway = gateway_to(replicas)
    replicas["a"].running.clear()
    request = gateway.embed([tokens(5, 1)])
    await asyncio.sleep(0.5)
    request.cancel()
    await asyncio.sleep(5)
    assert (replicas["a"].computing, gateway.dispatcher.in_flight_tokens) == (0, 0)
    assert gateway.dispatcher.queued_tokens == 0


@virtually
async def test_a_client_that_leaves_while_its_inputs_are_duplicated_frees_both_copies():
    replicas = Replicas(Replica("a"), Replica("b", seconds=5.0))
    gateway = gateway_to(replicas)
    replicas["a"].running.clear()
    request = gateway.embed([tokens(5, 1)])
    await until(lambda: gateway.dispatcher.counters.duplicates)
    request.cancel()
    await asyncio.sleep(0.1)
    assert replicas.cancelled == [("b", [1])]
    assert replicas["a"].computing == 0, "the call to the paused one is given up"
    await asyncio.sleep(10)
    assert gateway.dispatcher.in_flight_tokens == 0
    replicas["a"].running.set()
    await asyncio.sleep(10)
    gateway.assert_idle()


@virtually
async def test_a_bug_in_one_copy_does_not_fail_what_another_copy_may_answer():
    async def behave(replica: str, envelope: Envelope) -> ChunkReply:
        if replica == "a":
            await paused.wait()
            return reply_to(replica, envelope)
        await asyncio.sleep(0.5)
        raise KeyError("a bug")

    async def ping(replica: str, message: object) -> ReplicaStatus:
        if replica == "a":
            await paused.wait()
        return ReplicaStatus(replica)

    paused = asyncio.Event()
    gateway = Gateway("a", "b", behave=behave)
    gateway.wire.ping = ping
    request = gateway.embed([tokens(5, 1)])
    await until(lambda: gateway.dispatcher.counters.duplicates)
    paused.set()
    assert (await request).vectors.tolist() == vectors([tokens(5, 1)])
    await asyncio.sleep(10)
    gateway.assert_idle()


@virtually
async def test_closing_ends_everything_even_calls_to_silent_replicas():
    replicas = Replicas(Replica("a"), Replica("b"))
    gateway = gateway_to(replicas)
    for replica in replicas.all.values():
        replica.running.clear()
    request = gateway.embed([tokens(5, 1)], priority=Priority.BULK, deadline=math.inf)
    await asyncio.sleep(10)
    await gateway.dispatcher.close()
    with pytest.raises(UnavailableError):
        await request
    gateway.assert_idle()
    assert not any(replica.computing for replica in replicas.all.values())
