"""What a gateway tells of its backlog, and what it knows of the others'."""

from __future__ import annotations

import asyncio

from serve_app.cluster.ports import Backlog
from serve_app.types import ChunkReply, Envelope, Ping, ReplicaStatus
from tests.dispatching import Gateway, reply_to, tokens, virtually
from tests.simulated import Replica, Replicas, gateway_to


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
        reply.status = ReplicaStatus(replica, 500, 100.0, gateways_queued_tokens=70)
        return reply

    async def ping(replica: str, message: Ping) -> ReplicaStatus:
        return ReplicaStatus(replica, 500, 100.0, gateways_queued_tokens=70)

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
