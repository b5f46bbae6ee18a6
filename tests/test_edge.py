"""The outermost middleware: what Serve and the application see of a request's headers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
from ray.serve._private.http_util import RequestIdMiddleware, validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path

from serve_app.cluster.edge import Edge, cleaned
from serve_app.cluster.environment import serve_environment
from tests.running import RunningService

HEADERS = [(b"host", b"here"), (b"content-type", b"application/json")]
BODY = {"model": "demo", "input": "hello"}


def test_serve_finds_it_and_takes_what_it_gives() -> None:
    path = serve_environment()["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    found = validate_http_proxy_callback_return(call_function_from_import_path(path))
    assert [middleware.cls for middleware in found] == [Edge]


def test_the_timeout_changes_its_name() -> None:
    got = cleaned([*HEADERS, (b"x-request-timeout-seconds", b"2")])
    assert got[:3] == [*HEADERS, (b"x-embedserve-timeout-seconds", b"2")]


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"x_session_id",
        b"x-embedserve-timeout-seconds",
    ],
)
def test_what_controls_serve_is_dropped(name: bytes) -> None:
    assert cleaned([*HEADERS, (name, b"?1")])[:-1] == HEADERS


@pytest.mark.parametrize("sane", [b"a", b"id-7", b"\x21" * 128])
def test_a_sane_id_is_kept(sane: bytes) -> None:
    assert cleaned([(b"x-request-id", sane), *HEADERS]) == [*HEADERS, (b"x-request-id", sane)]


@pytest.mark.parametrize(
    "ids", [[], [b""], [b"\xff\xfe"], [b"a b"], [b"x" * 129], [b"a\tb"], [b"first", b"\xff"]], ids=repr
)
def test_any_other_id_is_replaced_by_one(ids: list[bytes]) -> None:
    names = [value for name, value in cleaned([(b"x-request-id", wanted) for wanted in ids]) if name == b"x-request-id"]
    assert len(names) == 1
    assert names[0].startswith(b"req_")
    assert len(names[0]) == 36


async def test_around_serve_s_own_middleware_there_is_one_id() -> None:
    """As Serve stacks them: its own innermost, then what the callback returned."""
    seen: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.extend(value for name, value in message["headers"] if name.lower() == b"x-request-id")

    scope = {"type": "http", "headers": [(b"x-request-id", b"\xff")]}
    await Edge(RequestIdMiddleware(app))(scope, asyncio.Event().wait, send)
    assert seen == sent
    assert len(seen) == 1
    assert seen[0].startswith(b"req_")


async def test_what_has_no_headers_passes_through() -> None:
    passed: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    await Edge(app)({"type": "lifespan"}, asyncio.Event().wait, asyncio.Event().wait)
    assert passed == [{"type": "lifespan"}]


# --- through the running service


def post(service: RunningService, body: Any, headers: dict[str, str | bytes]) -> httpx.Response:
    raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]
    return httpx.post(f"{service.base_url}/embeddings", json=body, headers=raw, timeout=60)


@pytest.mark.cluster
@pytest.mark.parametrize("asked", ["0.05", "0.001"])
def test_a_deadline_is_answered_in_openai_s_format(service: RunningService, asked: str) -> None:
    texts = ["word " * 68 + f"number {n}" for n in range(2048)]
    reply = post(service, {"model": "demo", "input": texts}, {"x-request-timeout-seconds": asked})
    assert reply.status_code == 408
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("timeout", None, "deadline_exceeded")
    assert error["message"].startswith("The deadline passed before ")
    assert reply.headers["x-should-retry"] == "true"
    assert post(service, BODY, {"x-request-timeout-seconds": "30"}).status_code == 200


@pytest.mark.cluster
@pytest.mark.parametrize("asked", ["0", "-5", "nan", "inf", "soon", "", b"\xff"])
def test_a_timeout_that_is_none_is_refused(service: RunningService, asked: str | bytes) -> None:
    reply = post(service, BODY, {"x-request-timeout-seconds": asked})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "x-request-timeout-seconds",
        None,
    )


@pytest.mark.cluster
@pytest.mark.parametrize("wanted", [b"\xff\xfe", b"x" * 300, b"a b", "é".encode()], ids=repr)
def test_an_odd_request_id_costs_nothing(service: RunningService, wanted: bytes) -> None:
    reply = post(service, BODY, {"x-request-id": wanted})
    assert reply.status_code == 200
    [given] = reply.headers.get_list("x-request-id")
    assert given.startswith("req_")


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["serve_multiplexed_model_id", "x-session-id", "x-request-disconnect-disabled"])
def test_serve_s_controls_are_not_the_client_s(service: RunningService, name: str) -> None:
    assert post(service, BODY, {name: b"\xff"}).status_code == 200


@pytest.mark.cluster
def test_the_openai_client_s_extra_headers(service: RunningService) -> None:
    with openai.OpenAI(base_url=service.base_url, api_key="EMPTY", max_retries=0) as client:
        client.embeddings.create(**BODY, extra_headers={"x-request-timeout-seconds": "20"})
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(**BODY, extra_headers={"x-request-timeout-seconds": "never"})
    assert caught.value.param == "x-request-timeout-seconds"
