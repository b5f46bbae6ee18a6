"""Log lines: JSON or text, and one for each request where they are asked for, without anything that was sent."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from serve_app.api.app import Outcome, build_app
from serve_app.cluster.request_log import Which, fields, logging_too
from serve_app.config import Settings
from serve_app.errors import UnavailableError
from serve_app.telemetry.logs import FIELDS, JsonLines, TextLines
from tests.guarded import Guarded, key
from tests.in_process import MODEL, InProcess, fail

SECRET = "my-secret-text"


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.getLogger("serve_app.x").makeRecord(
        "serve_app.x", logging.INFO, "f", 1, message, arguments, None, **more
    )


def test_json_lines() -> None:
    line = JsonLines().format(record('said "%s"\nand more', "a", extra={FIELDS: {"status": 200, "key": None}}))
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("time").endswith("+00:00")
    assert said == {"level": "INFO", "message": 'said "a"\nand more', "status": 200, "key": None}


def test_json_lines_with_a_traceback() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        broken = record("failed")
        broken.exc_info = sys.exc_info()
    assert json.loads(JsonLines().format(broken))["exception"].endswith("ValueError: x")


def test_text_lines() -> None:
    assert TextLines().format(record("Ready: %s", "x")).endswith(" INFO Ready: x")
    assert (
        TextLines().format(record("request", extra={FIELDS: {"status": 200}})).endswith(' INFO request {"status": 200}')
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(found, FIELDS) for found in caplog.records if found.message == "request"]


@pytest.mark.parametrize(
    ("which", "statuses"), [("none", []), ("failed", [400, 503, 404]), ("all", [200, 400, 503, 404])]
)
async def test_requests_are_logged_after_they_are_counted(
    caplog: pytest.LogCaptureFixture, which: Which, statuses: list[int]
) -> None:
    caplog.set_level(logging.INFO)
    counted: list[Outcome] = []
    service = InProcess()
    app = build_app(service, observe=logging_too(counted.append, which))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for body in ({"model": MODEL, "input": SECRET}, {"model": MODEL, SECRET: 1}):
            await http.post("/v1/embeddings", json=body, headers={"x-request-id": "r"})
        service.before = fail(UnavailableError("Not now."))
        await http.post("/v1/embeddings", json={"model": MODEL, "input": SECRET})
        await http.get(f"/{SECRET}")
        await http.get("/health")
    assert [outcome.status for outcome in counted] == [200, 400, 503, 404, 200]
    assert [line["status"] for line in lines(caplog)] == statuses
    ours = [JsonLines().format(found) for found in caplog.records if found.name.startswith("serve_app")]
    assert len(ours) == len(statuses)
    assert SECRET not in str(ours)


async def test_what_is_told_of_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guarded = Guarded(key("search"))
    guarded.app.observe = logging_too(guarded.outcomes.append, "all")
    headers = {"x-request-id": "r-1"}
    async with guarded.client("search-secret") as http:
        await http.post(
            "/v2/embed", json={"model": MODEL, "input_type": "clustering", "texts": [SECRET]}, headers=headers
        )
    async with guarded.client("wrong-secret") as http:
        await http.get(f"/v1/{SECRET}", headers={"x-request-id": "a\tb"})
    good, refused = lines(caplog)
    assert good.pop("ms") > 0
    assert good.pop("render_ms") >= 0
    assert good == {
        "request_id": "r-1",
        "key": "search",
        "method": "POST",
        "path": "/v2/embed",
        "dialect": "cohere",
        "model": MODEL,
        "status": 200,
        "code": None,
        "inputs": 1,
        "prompt_tokens": 3,
        "tokenize_ms": 1.0,
        "queue_ms": 2.0,
        "inference_ms": 3.0,
    }
    assert refused.pop("request_id").startswith("req_")
    assert (refused["key"], refused["path"], refused["status"], refused["code"]) == (None, None, 401, "invalid_api_key")
    for private in (SECRET, "search-secret", "wrong-secret"):
        assert private not in str((good, refused))


def test_a_line_is_json() -> None:
    outcome = Outcome("", "", 499, 0.5, "r")
    line = JsonLines().format(record("request", extra={FIELDS: fields(outcome)}))
    assert json.loads(line)["ms"] == 500.0


@pytest.mark.parametrize("arguments", [{"log.format": "xml"}, {"log.requests": "some"}, {"log.level": "debug"}])
def test_other_settings_are_refused(arguments: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(arguments)
    assert (Settings().log.format, Settings().log.requests) == ("text", "none")
