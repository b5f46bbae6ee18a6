"""What the dispatcher does about replicas that die, fall silent, come back, or refuse."""

from __future__ import annotations

import asyncio
import math

import pytest

from serve_app.cluster.ports import Backlog, ReplicaRefusedError
from serve_app.cluster.rules import DispatchRules
from serve_app.cluster.silence import SilencePolicy
from serve_app.errors import CrashingInputError, DeadlineExceededError, EngineDeadError, UnavailableError
from serve_app.types import ChunkReply, Envelope, Ping, Priority, ReplicaStatus
from tests.dispatching import Gateway, marks, reply_to, tokens, vectors, virtually
from tests.simulated import Replica, Replicas


def gateway_to(replicas: Replicas, **options) -> Gateway:
    return Gateway(*replicas.all, transport=replicas, **options)


async def until(condition, seconds: float = 100.0) -> float:
    """Wait for a condition, looking often; how long it took."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not condition():
        assert loop.time() < started + seconds, "never"
        await asyncio.sleep(0.01)
    return loop.time() - started


@virtually
async def test_the_inputs_of_a_dead_replica_go_elsewhere_and_first_in_groups_of_the_root():
    replicas = Replicas(Replica("a", seconds=1.0), Replica("b", seconds=1.0))
    gateway = gateway_to(replicas, chunk_inputs=9, chunk_tokens=90)
    inputs = [tokens(10, mark) for mark in range(1, 28)]
    request = gateway.embed(inputs)
    await asyncio.sleep(0.5)
    replicas["a"].die()
    assert (await request).vectors.tolist() == vectors(inputs)
    sent = [marks(envelope) for _, envelope in replicas.sent]
    assert sent[:2] == [[*range(1, 10)], [*range(10, 19)]]
    assert sent[2:5] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "suspects go one group at a time, ahead of what is new"
    assert sent[5:] == [[*range(19, 28)]]
    assert {replica for replica, _ in replicas.sent[1:]} == {"b"}
    counters = gateway.dispatcher.counters
    assert (counters.deaths, counters.retries, counters.duplicates) == (1, 9, 0)
    gateway.assert_idle()


@virtually
async def test_suspects_do_not_block_new_work_of_their_lane():
    replicas = Replicas(Replica("a", seconds=1.0), Replica("b", seconds=1.0))
    gateway = gateway_to(replicas, slots=2)
    lost = gateway.embed([tokens(5, mark) for mark in range(1, 5)])
    await asyncio.sleep(0.4)
    replicas["a"].die()
    await asyncio.sleep(0.1)
    assert [marks(envelope) for _, envelope in replicas.sent] == [[1, 2, 3, 4], [1, 2]]
    assert gateway.dispatcher.queued_tokens == 10
    await gateway.embed([tokens(5, 9)])
    assert gateway.loop.time() == pytest.approx(1.5)
    await lost


@virtually
async def test_a_single_dead_replica_costs_no_attempts_until_its_replacement_comes():
    replicas = Replicas(Replica("a"))
    gateway = gateway_to(replicas)
    inputs = [tokens(5, mark) for mark in range(1, 5)]
    request = gateway.embed(inputs)
    await asyncio.sleep(0.05)
    replicas["a"].die()
    await asyncio.sleep(30)
    assert len(replicas.sent) == 1, "no input is risked to find out whether a replica lives"
    asked = len(replicas.pings)
    assert 6 <= asked <= 12
    replicas.all["b"] = Replica("b")
    gateway.view.set_replicas(["b"])
    assert (await request).vectors.tolist() == vectors(inputs)
    assert gateway.dispatcher.counters.deaths == 1
    await asyncio.sleep(10)
    gateway.assert_idle()


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
async def test_poison_among_siblings_is_refused_after_three_deaths_and_the_siblings_are_served():
    poison = 77
    replicas = Replicas(*[Replica(f"r{n}", poison=frozenset({poison})) for n in range(6)])
    gateway = gateway_to(replicas, chunk_tokens=2048, chunk_inputs=256, slots=2)
    requests = {mark: gateway.embed([tokens(5, mark)]) for mark in range(1, 257)}
    await asyncio.wait(requests.values())
    with pytest.raises(CrashingInputError) as refused:
        await requests.pop(poison)
    assert (refused.value.status, refused.value.param, refused.value.code) == (422, "input", "input_crashes_replica")
    assert str(refused.value).startswith("Input 0 ")
    for mark, request in requests.items():
        assert request.result().vectors.tolist() == vectors([tokens(5, mark)])
    assert len([replica for replica in replicas.all.values() if replica.died.done()]) == 3
    sizes = [len(envelope.lengths) for replica, envelope in replicas.sent if poison in marks(envelope)]
    assert sizes == [256, 16, 1]
    assert gateway.dispatcher.counters.refused == 1
    gateway.view.set_replicas([name for name, replica in replicas.all.items() if not replica.died.done()])
    await asyncio.sleep(20)
    gateway.assert_idle()


@virtually
async def test_the_error_names_the_input_of_a_request():
    replicas = Replicas(*[Replica(f"r{n}", poison=frozenset({3})) for n in range(6)])
    gateway = gateway_to(replicas)
    with pytest.raises(CrashingInputError, match="Input 2 "):
        await gateway.embed([tokens(5, mark) for mark in range(1, 5)])


@virtually
async def test_an_innocent_of_another_gateway_is_never_refused():
    poison = 1000
    replicas = Replicas(*[Replica(f"r{n}", poison=frozenset({poison})) for n in range(4)])
    here = gateway_to(replicas, chunk_tokens=640, chunk_inputs=64, slots=2)
    there = gateway_to(replicas, chunk_tokens=640, chunk_inputs=64, slots=2, name="there")
    mine = [here.embed([tokens(5, mark)]) for mark in [*range(1, 64), poison]]
    theirs = [there.embed([tokens(5, mark)]) for mark in range(101, 501)]

    async def replace_the_dead() -> None:
        for n in range(4, 100):
            await until(lambda: any(replica.died.done() for replica in replicas.all.values()))
            await asyncio.sleep(0.5)
            dead = [name for name, replica in replicas.all.items() if replica.died.done()]
            del replicas.all[dead[0]]
            replicas.all[f"r{n}"] = Replica(f"r{n}", poison=frozenset({poison}))
            for gateway in (here, there):
                gateway.view.set_replicas(replicas.all)

    replacing = asyncio.create_task(replace_the_dead())
    await asyncio.wait([*mine, *theirs])
    replacing.cancel()
    assert isinstance(mine.pop().exception(), CrashingInputError)
    for mark, request in zip([*range(1, 64), *range(101, 501)], mine + theirs, strict=True):
        assert request.result().vectors.tolist() == vectors([tokens(5, mark)])
    assert there.dispatcher.counters.deaths > 0, "else nothing was tested"
    assert there.dispatcher.counters.refused == 0
    alone = [(replica, envelope) for replica, envelope in replicas.sent if envelope.alone]
    assert {len(envelope.lengths) for _, envelope in alone} == {1}


@virtually
async def test_an_engine_that_died_counts_as_a_death_only_for_what_it_had():
    async def dead(replica: str, envelope: Envelope) -> ChunkReply:
        if replica == "b":
            return reply_to(replica, envelope)
        if len(gateway.wire.sent) > 1:
            raise EngineDeadError("gone")
        return reply_to(replica, envelope, {0: EngineDeadError("gone")})

    async def ping(replica: str, message: object) -> ReplicaStatus:
        raise EngineDeadError("gone")

    gateway = Gateway("a", behave=dead)
    gateway.wire.ping = ping
    request = gateway.embed([tokens(5, 1), tokens(5, 2)])
    await asyncio.sleep(2)
    assert gateway.wire.marks() == [[1, 2]]
    gateway.view.set_replicas(["a", "b"])
    assert (await request).vectors.tolist() == vectors([tokens(5, 1), tokens(5, 2)])
    assert gateway.wire.marks() == [[1, 2], [1]]
    assert gateway.dispatcher.counters.deaths == 1


@virtually
async def test_over_budget_retries_wait_and_are_not_failed():
    replicas = Replicas(*[Replica(f"r{n}", seconds=0.2) for n in range(4)])
    gateway = gateway_to(replicas, retry_budget=0.0, chunk_inputs=8)
    gateway.dispatcher._budget.floor = 15
    requests = [gateway.embed([tokens(5, mark) for mark in range(1, 9)])]
    await asyncio.sleep(0.05)
    replicas["r0"].die()
    await asyncio.sleep(1)
    assert gateway.dispatcher.counters.retries == 3, "of 8 x 5 tokens, 15 may be sent again at once"
    assert gateway.dispatcher.queued_tokens == 25
    await gateway.embed([tokens(5, 99)])
    assert gateway.loop.time() < 1.5, "new work isn't held up"
    await asyncio.gather(*requests)
    assert gateway.dispatcher.counters.retries == 8
    assert 15 < gateway.loop.time() < 18, "the other 25 at 15 in 10 s"
    gateway.view.set_replicas(["r1", "r2", "r3"])
    await asyncio.sleep(10)
    gateway.assert_idle()


@virtually
async def test_deadlines_and_cancellation_hold_while_waiting_to_be_sent_again():
    replicas = Replicas(Replica("a"))
    gateway = gateway_to(replicas)
    kept, left = gateway.embed([tokens(5, 1)], deadline=5.0), gateway.embed([tokens(5, 2)])
    await asyncio.sleep(0.05)
    replicas["a"].die()
    await asyncio.sleep(1.0)
    assert gateway.dispatcher.queued_tokens == 10
    left.cancel()
    with pytest.raises(DeadlineExceededError):
        await kept
    assert gateway.loop.time() == 5.0
    assert gateway.dispatcher.queued_tokens == 0
    gateway.view.set_replicas([])
    await asyncio.sleep(10)
    gateway.assert_idle()


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
async def test_a_sleeping_pool_is_woken_by_one_call_at_a_time():
    replicas = Replicas()
    gateway = gateway_to(replicas)
    request = gateway.embed([tokens(5, 1)])
    await asyncio.sleep(30)
    assert [(replica, ping.gateway, ping.gateway_queued_tokens) for replica, ping in replicas.pings] == [
        ("any", "here", 5)
    ]
    await asyncio.sleep(60)
    assert len(replicas.pings) == 2, "one that got no answer is made again"
    replicas.all["a"] = Replica("a")
    replicas.woken.set()
    gateway.view.set_replicas(["a"])
    await request
    await asyncio.sleep(5)
    gateway.assert_idle()


@virtually
async def test_a_gateway_with_a_backlog_speaks_every_second_and_to_every_replica():
    replicas = Replicas(Replica("a", seconds=8.0, rate=1.0), Replica("b", seconds=8.0, rate=1.0))
    gateway = gateway_to(replicas)
    requests = [gateway.embed([tokens(40, mark)]) for mark in range(1, 5)]
    await asyncio.sleep(6)
    told = [(replica, ping.gateway_queued_tokens) for replica, ping in replicas.pings]
    assert {("a", 80), ("b", 80)} == set(told)
    assert len(told) >= 6
    await asyncio.gather(*requests)
    said = len(replicas.pings)
    await asyncio.sleep(20)
    assert len(replicas.pings) == said


@virtually
async def test_the_backlog_is_our_own_the_others_and_what_the_replicas_have():
    async def busy(replica: str, envelope: Envelope) -> ChunkReply:
        await asyncio.sleep(1.0)
        reply = reply_to(replica, envelope)
        reply.status = ReplicaStatus(replica, 500, 100.0, gateways_queued_tokens=envelope.gateway_queued_tokens + 70)
        return reply

    async def ping(replica: str, message: Ping) -> ReplicaStatus:
        return ReplicaStatus(replica, 500, 100.0, gateways_queued_tokens=message.gateway_queued_tokens + 70)

    gateway = Gateway("a", behave=busy)
    gateway.wire.ping = ping
    requests = [gateway.embed([tokens(40, mark)]) for mark in range(1, 4)]
    await asyncio.sleep(0.2)
    backlog = gateway.dispatcher.backlog()
    assert backlog == Backlog(queued_tokens=80, cluster_tokens=120, tokens_per_second=0.0, replicas=1)
    await asyncio.sleep(0.3)
    # A ping at 0.25 s told of 70 tokens held back elsewhere, and of 500 at the replica: 40 of ours, 25 of the others done since.
    backlog = gateway.dispatcher.backlog()
    assert backlog == Backlog(queued_tokens=80, cluster_tokens=80 + 70 + 475, tokens_per_second=100.0, replicas=1)
    await asyncio.gather(*requests)
    await asyncio.sleep(10)
    assert gateway.dispatcher.backlog().cluster_tokens == 0, "what nobody repeats is forgotten"


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
