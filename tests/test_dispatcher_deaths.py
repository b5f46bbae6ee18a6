"""What the dispatcher does about replicas that die, and about inputs that they die of."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import CrashingInputError, DeadlineExceededError, EngineDeadError
from serve_app.types import ChunkReply, Envelope, ReplicaStatus
from tests.dispatching import Gateway, marks, reply_to, tokens, vectors, virtually
from tests.simulated import Replica, Replicas, gateway_to, until


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
