"""The ledger: who used what, counted before anybody has an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from serve_app.access.key import ApiKey
from serve_app.api.app import build_app
from serve_app.api.routing import Access
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.ledger import Ledger
from serve_app.cluster.usage import pricing, usage_route
from serve_app.config import CostSettings
from serve_app.telemetry.cost import consumption
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.ledger import Used, rows_of
from serve_app.telemetry.snapshot import Snapshot
from tests.counted import counted
from tests.guarded import Guarded, key
from tests.in_process import MODEL
from tests.test_app import BODY

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


async def test_usage_needs_a_key(counted: MetricsDirectory) -> None:
    guarded = watched(key("a"), directory=counted)
    assert (await guarded.send("GET", "/v1/usage"))[0] == 401
    assert all(route.access is not Access.PUBLIC for route in guarded.app.router.routes if "usage" in route.path)
