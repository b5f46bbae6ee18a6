"""Serve's router under our pins: a call goes where it was told to, or fails at once, and holds up no other."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from serve_app.cluster.feed import feed_of
from serve_app.cluster.ports import ReplicaRefusedError
from serve_app.cluster.routing import PinnedRouter


class Replica:
    """As much of Serve's replica wrapper as the router uses."""

    max_ongoing_requests = 1000

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, DeploymentID("Pinned", "app"))
        self.asked = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        if self.replica_id.unique_id == "paused":
            await asyncio.Event().wait()
        return 0


class Silent:
    """A Serve metric outside of a cluster."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def set_default_tags(self, tags: dict[str, str]) -> Silent:
        return self

    def set(self, *arguments: object, **options: object) -> None:
        pass

    inc = observe = set


@pytest.fixture
async def router(monkeypatch: pytest.MonkeyPatch) -> PinnedRouter:
    monkeypatch.setattr("serve_app.cluster.feed._feeds", {})
    for metric in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"ray.serve._private.request_router.request_router.metrics.{metric}", Silent)
    router = PinnedRouter(
        deployment_id=DeploymentID("Pinned", "app"),
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
    )
    router.initialize_state()
    return router


def call(*arguments: Any) -> PendingRequest:
    metadata = RequestMetadata(request_id="", internal_request_id=uuid.uuid4().hex)
    return PendingRequest(args=list(arguments), kwargs={}, metadata=metadata)


async def route(router: PinnedRouter, *arguments: Any) -> str:
    async with asyncio.timeout(5):
        chosen = await router._choose_replica_for_request(call(*arguments))
    return str(chosen.replica_id.unique_id)


async def test_a_call_goes_to_the_replica_it_names(router: PinnedRouter) -> None:
    router.update_replicas([Replica(name) for name in "abc"])
    assert [await route(router, "envelope", name) for name in "cabba"] == ["c", "a", "b", "b", "a"]
    assert await route(router, "ping") in {"a", "b", "c"}
    assert await route(router, "ping", None) in {"a", "b", "c"}


async def test_the_names_are_published(router: PinnedRouter) -> None:
    seen: list[tuple[list[str], list[str]]] = []
    feed_of("Pinned").subscribe(lambda names, leaving: seen.append((names, leaving)))
    router.update_replicas([Replica("a"), Replica("b")])
    router.on_replica_actor_died(ReplicaID("a", DeploymentID("Pinned", "app")))
    router.update_replicas([Replica("c")])
    await asyncio.sleep(0)
    assert seen[-3:] == [(["a", "b"], []), (["b"], []), (["c"], ["b"])]


async def test_a_replica_that_is_being_stopped_can_be_named_for_a_while(
    router: PinnedRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.cluster.routing.LEAVING_SECONDS", 0.2)
    old, dying, new = Replica("old"), Replica("dying"), Replica("new")
    router.update_replicas([old, dying])
    router.update_replicas([])
    assert await route(router, "envelope", "old") == "old"
    assert await route(router, "envelope", "dying") == "dying"
    router.update_replicas([new])
    assert {await route(router, "ping") for _ in range(10)} == {"new"}
    assert await route(router, "envelope", "old") == "old"
    router.on_replica_actor_unavailable(dying.replica_id)
    with pytest.raises(ReplicaRefusedError):
        await route(router, "envelope", "dying")
    await asyncio.sleep(0.5)
    with pytest.raises(ReplicaRefusedError):
        await route(router, "envelope", "old")
    assert await route(router, "envelope", "new") == "new"


async def test_what_waits_for_any_replica_is_not_for_one_that_is_being_stopped(router: PinnedRouter) -> None:
    """Serve sees it wait, and that is what makes a sleeping pool start."""
    router.update_replicas([Replica("old")])
    router.update_replicas([])
    waiting = asyncio.create_task(route(router, "ping"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert await route(router, "envelope", "old") == "old"
    router.update_replicas([Replica("new")])
    assert await waiting == "new"


async def test_a_call_to_a_replica_that_is_gone_fails_at_once(router: PinnedRouter) -> None:
    replicas = [Replica("a"), Replica("b")]
    router.update_replicas(replicas)
    with pytest.raises(ReplicaRefusedError):
        await route(router, "envelope", "z")
    router.on_replica_actor_unavailable(replicas[0].replica_id)
    with pytest.raises(ReplicaRefusedError):
        await route(router, "envelope", "a")
    assert await route(router, "ping") == "b"
    assert router._pending_requests_by_id == {}
    router._unavailable_until.clear()
    assert await route(router, "envelope", "a") == "a"


async def test_a_paused_replica_holds_up_nobody(router: PinnedRouter) -> None:
    paused, other = Replica("paused"), Replica("b")
    router.update_replicas([paused, other])
    chosen = await asyncio.gather(*[route(router, "envelope", name) for name in ["paused"] * 20 + ["b"]])
    assert chosen == ["paused"] * 20 + ["b"]
    assert paused.asked <= 1, "no more than Serve's own question at the start"
