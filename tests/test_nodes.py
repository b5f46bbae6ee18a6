"""Adding the nodes up, with exporters that answer, don't, or are gone, and a store that is a dict."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from serve_app.cluster.instance import free_port
from serve_app.telemetry import nodes
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.nodes import NodeExporter, Nodes, take
from tests.counting import COUNTED, counting, finished, killed, total


class Store:
    """Ray's key-value store."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.down = False

    def put(self, key: str, value: bytes, *, overwrite: bool, namespace: str) -> None:
        self._check()
        self.values[key] = value

    def get(self, key: str, *, namespace: str) -> bytes | None:
        self._check()
        return self.values.get(key)

    def list(self, prefix: str, *, namespace: str) -> list[bytes]:
        self._check()
        return [key.encode() for key in self.values if key.startswith(prefix)]

    def _check(self) -> None:
        if self.down:
            raise ConnectionError("the store is away")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    for name in ("put", "get", "list"):
        monkeypatch.setattr(nodes.internal_kv, f"_internal_kv_{name}", getattr(store, name))
    for name in ("PATIENCE_SECONDS", "OWN_PATIENCE_SECONDS"):
        monkeypatch.setattr(nodes, name, 0.2)
    return store


class Exporter:
    """An exporter's handle: `exporter.take.remote()`."""

    def __init__(self, path: Path) -> None:
        self.directory = MetricsDirectory(path)
        self.fails: BaseException | None = None
        self.hangs = False
        self.asked = 0
        self.take = self

    async def remote(self) -> tuple[str, bytes]:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(60)
        if self.fails is not None:
            raise self.fails
        return take(self.directory, "app")


def cluster(tmp_path: Path, **exporters: Exporter) -> Nodes:
    found: Any = Nodes("app", str(tmp_path / "own"))
    found._exporters = exporters
    found._own_node = "own"
    return found


def count(path: Path, times: int) -> None:
    killed(finished(counting(path, times), times))


async def shown(cluster: Nodes) -> float | None:
    return (await cluster.total()).totals().get(COUNTED)


async def test_nodes_add_up_and_those_that_share_a_directory_count_once(tmp_path: Path, store: Store) -> None:
    own, other = tmp_path / "own" / "metrics-app", tmp_path / "other"
    count(own, 5)
    count(other, 7)
    exporters = {name: Exporter(path) for name, path in (("own", own), ("twin", own), ("other", other))}
    assert await shown(cluster(tmp_path, **exporters)) == 12


async def test_a_node_that_is_gone_counts_on_as_it_was_last_shown(tmp_path: Path, store: Store) -> None:
    own, other = tmp_path / "own" / "metrics-app", tmp_path / "other"
    count(own, 5)
    count(other, 7)
    living = finished(counting(other, 2), 2)
    try:
        both = cluster(tmp_path, own=Exporter(own), other=Exporter(other))
        before = (await both.total()).totals()
        assert (before[COUNTED], before["embedserve_level", ()]) == (14, 2)
        alone = cluster(tmp_path, own=Exporter(own))
        after = (await alone.total()).totals()
        assert after[COUNTED] == 14
        assert ("embedserve_level", ()) not in after, "gauges go with their node"
    finally:
        killed(living)
    back = cluster(tmp_path, own=Exporter(own), other=Exporter(other))
    assert await shown(back) == 14, "and it isn't added to what was remembered of it"


@pytest.mark.parametrize("how", ["hangs", "fails", "missing"])
async def test_without_its_exporter_a_gateway_reads_its_own_node(tmp_path: Path, store: Store, how: str) -> None:
    own = tmp_path / "own" / "metrics-app"
    count(own, 5)
    exporter = Exporter(own)
    exporter.hangs, exporter.fails = how == "hangs", RuntimeError("killed") if how == "fails" else None
    exporters = {} if how == "missing" else {"own": exporter}
    assert await shown(cluster(tmp_path, **exporters)) == 5
    count(own, 3)
    assert await shown(cluster(tmp_path, **exporters)) == 8
    assert len(store.values) == 1, "what was shown is in the store"


async def test_an_exporter_that_failed_is_looked_up_anew(tmp_path: Path, store: Store) -> None:
    broken = Exporter(tmp_path / "other")
    broken.fails = RuntimeError("gone")
    found: Any = cluster(tmp_path, other=broken)
    await found.total()
    assert found._exporters == {}


async def test_a_hanging_node_is_taken_from_the_store(tmp_path: Path, store: Store) -> None:
    other = Exporter(tmp_path / "other")
    count(tmp_path / "other", 7)
    found = cluster(tmp_path, other=other)
    assert await shown(found) == 7
    count(tmp_path / "other", 1)
    other.hangs = True
    assert await shown(found) == 7
    other.hangs = False
    assert await shown(found) == 8


async def test_while_the_store_is_away_sums_do_not_fall(tmp_path: Path, store: Store) -> None:
    own, other = tmp_path / "own" / "metrics-app", tmp_path / "other"
    count(own, 5)
    count(other, 7)
    exporter = Exporter(other)
    found = cluster(tmp_path, other=exporter)
    assert await shown(found) == 12
    store.down, exporter.fails = True, ConnectionError("no")
    count(own, 1)
    assert await shown(found) == 13


async def test_a_paused_process_that_holds_the_directory_holds_nobody_up(tmp_path: Path, store: Store) -> None:
    own = tmp_path / "own" / "metrics-app"
    count(own, 5)
    with MetricsDirectory(own).merging():
        assert await shown(cluster(tmp_path)) == 5


def test_what_is_taken_is_in_the_store_first(tmp_path: Path, store: Store) -> None:
    count(tmp_path, 5)
    store.down = True
    with pytest.raises(ConnectionError):
        take(MetricsDirectory(tmp_path), "app")
    assert total(tmp_path) == 5


def test_a_node_without_our_processes_has_nothing_to_say(tmp_path: Path, store: Store) -> None:
    assert take(MetricsDirectory(tmp_path / "none"), "app")[0] == ""
    assert store.values == {}
    assert not (tmp_path / "none").exists()


async def test_each_node_shows_its_own_part_on_a_port_if_asked_and_ends_when_forgotten(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(tmp_path / "metrics-app", 5)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def kill(actor: str) -> None:
        assert actor == "me"
        loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(nodes.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor="me"))
    monkeypatch.setattr(nodes.ray, "kill", kill)
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(nodes, "FORGOTTEN_SECONDS", 300)
    port = free_port()
    exporter = NodeExporter("app", str(tmp_path), port)
    async with httpx.AsyncClient() as http:
        reply = await http.get(f"http://127.0.0.1:{port}/metrics")
        assert 'embedserve_seen_total{kind="a"} 5.0' in reply.text
    assert len(store.values) == 1
    spoken = time.monotonic()
    exporter.keep()
    monkeypatch.setattr(nodes, "FORGOTTEN_SECONDS", 0.5)
    async with asyncio.timeout(30):
        await ended.wait()
    assert time.monotonic() - spoken >= 0.5
    # A second one on the same machine can't have the port, and does its work without.
    other = NodeExporter("app", str(tmp_path), port)
    assert other.take()[0] == MetricsDirectory(tmp_path / "metrics-app").id
    ended.clear()
    async with asyncio.timeout(30):
        await ended.wait()
