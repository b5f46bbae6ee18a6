"""The ledger: who used what, counted before anybody has an answer, and never twice, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from serve_app.access.key import ApiKey
from serve_app.api.app import build_app
from serve_app.api.routing import Access
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.ledger import Ledger, recover
from serve_app.cluster.usage import pricing, usage_route
from serve_app.config import CostSettings
from serve_app.telemetry.cost import consumption
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.ledger import Used, latest, rows_of, summed
from serve_app.telemetry.ledger_store import LedgerStore, Source, SqliteStore
from serve_app.telemetry.snapshot import Snapshot
from tests.counted import counted
from tests.guarded import Guarded, key
from tests.test_app import BODY, MODEL

__all__ = ["counted"]

PRICES = pricing(CostSettings(gpu="aws:a10g"))


def watched(*keys: ApiKey, directory: MetricsDirectory, ledger: Ledger | None = None) -> Guarded:
    """An app whose requests are counted in `directory`, with `/v1/usage`."""
    parts: Any = None, None, "app"
    telemetry = GatewayTelemetry(GatewayMetrics([MODEL], ["openai"]), *parts, keys=KeyMetrics())
    guarded = Guarded(*keys)

    async def by_directory() -> dict[str, Snapshot]:
        return {directory.id: directory.read()}

    route = usage_route(by_directory, PRICES, ledger)
    guarded.app = build_app(guarded.service, [route], telemetry.observe, guarded.gate)
    return guarded


async def test_usage_is_kept_by_key_and_shown_to_its_own(counted: MetricsDirectory) -> None:
    guarded = watched(key("a"), key("b", tokens_per_minute=9), key("boss", admin=True), directory=counted)
    async with guarded.client("a-secret") as http:
        for texts in (["x"], ["x", "y", "z"]):
            await http.post("/v1/embeddings", json={**BODY, "input": texts})
        own = (await http.get("/v1/usage")).json()
        document = (await http.get("/openapi.json")).json()
    async with guarded.client("b-secret") as http:
        for status in (200, 429):
            assert (await http.post("/v1/embeddings", json={**BODY, "input": ["x", "y"]})).status_code == status
        others = (await http.get("/v1/usage")).json()
    row = {"key": "a", "model": MODEL, "requests": 2, "inputs": 4, "prompt_tokens": 12, "usd": None}
    assert own == {"object": "key_usage", "requests": 2, "inputs": 4, "prompt_tokens": 12, "usd": None, "keys": [row]}
    schemas = {name: {**document, "$ref": f"#/components/schemas/{name}"} for name in ("KeyUsageReport", "UsageReport")}
    Draft202012Validator(schemas["KeyUsageReport"]).validate(own)
    assert [each["key"] for each in others["keys"]] == ["b"]
    async with guarded.client("boss-secret") as http:
        whole = (await http.get("/v1/usage")).json()
    Draft202012Validator(schemas["UsageReport"]).validate(whole)
    assert [(each["key"], each["prompt_tokens"]) for each in whole["keys"]] == [("a", 12), ("b", 6)]
    assert (whole["requests"], whole["prompt_tokens"]) == (3, 18)
    assert "usd_per_million_tokens" not in own


async def test_an_open_service_shows_all(counted: MetricsDirectory) -> None:
    guarded = watched(directory=counted)
    guarded.app.guard = None
    async with guarded.client() as http:
        await http.post("/v1/embeddings", json=BODY)
        whole = (await http.get("/v1/usage")).json()
    assert (whole["object"], whole["requests"], whole["keys"]) == ("usage", 1, [])


async def test_a_key_that_has_used_nothing(counted: MetricsDirectory) -> None:
    async with watched(key("a"), directory=counted).client("a-secret") as http:
        assert (await http.get("/v1/usage")).json() == {
            "object": "key_usage", "requests": 0, "inputs": 0, "prompt_tokens": 0, "usd": 0, "keys": []
        }  # fmt: skip


async def test_it_is_counted_before_the_answer_leaves(counted: MetricsDirectory) -> None:
    guarded = watched(key("a"), directory=counted)
    seen: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(BODY).encode()}

    async def send(message: Mapping[str, Any]) -> None:
        seen.append(rows_of(counted.read().totals()))

    headers = [(b"authorization", b"Bearer a-secret")]
    await guarded.app({"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers}, receive, send)
    assert seen[0] == {("a", MODEL): Used(1, 1, 3)}


async def test_rows_of_keys_are_not_counted_into_the_whole_twice(counted: MetricsDirectory) -> None:
    guarded = watched(key("a"), directory=counted)
    async with guarded.client("a-secret") as http:
        await http.post("/v1/embeddings", json=BODY)
    used = consumption(counted.read().totals())
    assert (used.requests, used.inputs, used.tokens) == (1, 1, 3)


# --- kept


class Memory:
    """A store in a dictionary that is away at times."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.away = False

    def load(self) -> dict[str, Source]:
        if self.away:
            raise OSError("away")
        return dict(self.sources)

    def save(self, sources: Mapping[str, Source]) -> None:
        if self.away:
            raise OSError("away")
        for id_, source in sources.items():
            known = self.sources.get(id_, Source("", {}))
            self.sources[id_] = Source(source.path or known.path, latest(known.rows, source.rows))


A = ("a", "m")


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteStore:
    return SqliteStore(str(tmp_path / "sub" / "ledger.db"))


def test_sqlite_keeps_the_largest_sums_of_each_source(sqlite: SqliteStore) -> None:
    assert sqlite.load() == {}
    sqlite.save(
        {"one": Source("/x", {A: Used(2, 3, 10)}), "two": Source("", {A: Used(1, 1, 1), ("b", "m"): Used(1, 1, 5)})}
    )
    sqlite.save({"one": Source("", {A: Used(1, 4, 9)})})
    sqlite.save({})
    assert sqlite.load() == {
        "one": Source("/x", {A: Used(2, 4, 10)}),
        "two": Source("", {A: Used(1, 1, 1), ("b", "m"): Used(1, 1, 5)}),
    }


def test_a_file_that_is_no_ledger_is_an_oserror(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(OSError, match=r"ledger\.db can't be read"):
        SqliteStore(str(path)).load()


def counts(directory: MetricsDirectory, program: str) -> subprocess.Popen[bytes]:
    """A process that counts in `directory`; its standard output says what it has acknowledged."""
    code = f"""
import sys
from pathlib import Path
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.process import count_in
count_in(MetricsDirectory(Path({str(directory.path)!r})))
from serve_app.telemetry.key_metrics import KeyMetrics
metrics = KeyMetrics()
{program}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


FOR_EVER = """
while True:
    metrics.billed("a", "m", 1, 3)
    sys.stdout.buffer.write(b".")
    sys.stdout.flush()
"""


def whole(ledger: Ledger, *directories: MetricsDirectory) -> Used:
    rows = asyncio.run(ledger.rows({directory.id: directory.read() for directory in directories}))
    return rows.get(A, Used())


def test_killed_and_started_again_nothing_is_lost_or_counted_twice(tmp_path: Path, sqlite: SqliteStore) -> None:
    """Three lives of a service, each ended by SIGKILL at work; the ledger was last stored at some moment before."""
    acknowledged = indeterminate = 0
    for life in range(3):
        directory = MetricsDirectory(tmp_path / f"session{life}")
        process = counts(directory, FOR_EVER)
        assert process.stdout is not None
        before = os.read(process.stdout.fileno(), 1)
        ledger = Ledger(sqlite, directory)
        # What a gateway does at its start, and then now and then.
        recover(sqlite)
        asyncio.run(ledger.save({directory.id: directory.read()}))
        before += os.read(process.stdout.fileno(), 200)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        assert before
        acknowledged += len(before + rest)
        indeterminate += 1
    last = MetricsDirectory(tmp_path / "session3")
    recover(sqlite)
    for _ in range(2):
        billed = whole(Ledger(sqlite, last), last).requests
        assert acknowledged <= billed <= acknowledged + indeterminate
        recover(sqlite)


def test_a_node_that_is_gone_with_its_disk_keeps_what_was_stored(sqlite: SqliteStore, tmp_path: Path) -> None:
    sqlite.save({"gone": Source(str(tmp_path / "nowhere"), {A: Used(5, 5, 15)})})
    recover(sqlite)
    assert whole(Ledger(sqlite)) == Used(5, 5, 15)


def test_a_directory_that_was_made_anew_is_another_source(sqlite: SqliteStore, tmp_path: Path) -> None:
    directory = MetricsDirectory(tmp_path / "again")
    counts(directory, "metrics.billed('a', 'm', 1, 3)").wait()
    sqlite.save({"an older one": Source(str(directory.path), {A: Used(5, 5, 15)})})
    recover(sqlite)
    assert whole(Ledger(sqlite, directory), directory) == Used(6, 6, 18)


def test_while_the_store_is_away_what_was_read_stays(
    caplog: pytest.LogCaptureFixture, counted: MetricsDirectory
) -> None:
    store = Memory()
    store.save({"before": Source("", {A: Used(5, 5, 15)})})
    ledger = Ledger(store, counted)
    metrics = KeyMetrics()
    metrics.billed("a", "m", 1, 3)
    assert whole(ledger, counted) == Used(6, 6, 18)
    store.away = True
    metrics.billed("a", "m", 1, 3)
    assert whole(ledger, counted) == Used(7, 7, 21)
    asyncio.run(ledger.save({counted.id: counted.read()}))
    assert caplog.text.count("away") == 1
    store.away = False
    asyncio.run(ledger.save({counted.id: counted.read()}))
    assert store.sources[counted.id] == Source(str(counted.path), {A: Used(2, 2, 6)})


looks = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 3)), max_size=20)


@given(looks)
def test_in_whatever_order_looks_are_stored_the_ledger_is_the_latest_of_each_source(
    order: list[tuple[str, int]],
) -> None:
    store: LedgerStore = Memory()
    most: dict[str, int] = {}
    for source, look in order:
        store.save({source: Source("", {A: Used(look, look, look)})})
        most[source] = max(most.get(source, 0), look)
    total = summed(source.rows for source in store.load().values())
    assert total.get(A, Used()).requests == sum(most.values())


async def test_usage_needs_a_key(counted: MetricsDirectory) -> None:
    guarded = watched(key("a"), directory=counted)
    assert (await guarded.send("GET", "/v1/usage"))[0] == 401
    assert all(route.access is not Access.PUBLIC for route in guarded.app.router.routes if "usage" in route.path)
