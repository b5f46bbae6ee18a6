"""The ASGI app, whole: over HTTP, through the OpenAI client, and fed with rubbish."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api import embeddings
from serve_app.api.app import App, Outcome, build_app
from serve_app.api.http import Reply, Request
from serve_app.api.openai import EmbeddingsJob
from serve_app.api.prompts import DEFAULT_PROMPTS
from serve_app.api.quantise import quantise
from serve_app.api.routing import Route
from serve_app.errors import (
    CrashingInputError,
    DeadlineExceededError,
    EngineError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from serve_app.types import EmbedJob, EmbedResult, OutputType, Stage
from tests.in_process import HIDDEN, MODEL, STAGES, InProcess, fail, vector

BODY = {"input": "hello", "model": MODEL}
CONSTANT_500 = "The server had an error while processing your request. Quote the x-request-id header."


@pytest.fixture
def service() -> InProcess:
    return InProcess()


@pytest.fixture
async def http(service: InProcess) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def client(http: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http, max_retries=0)


def error(message: str, type_: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


# --- the endpoint


async def test_embeddings(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/embeddings", json={**BODY, "input": ["a", "b"], "model": "qwen3-embedding-0.6b"})
    assert reply.status_code == 200
    data = [
        {"object": "embedding", "index": i, "embedding": [float(str(x)) for x in vector(text, HIDDEN)]}
        for i, text in enumerate("ab")
    ]
    assert reply.json() == {
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


async def test_headers(http: httpx.AsyncClient) -> None:
    headers = (await http.post("/v1/embeddings", json=BODY)).headers
    assert headers["content-type"] == "application/json"
    assert headers["openai-version"] == "2020-10-01"
    assert headers["openai-processing-ms"].isdigit()
    assert headers["x-request-id"].startswith("req_")
    assert [headers[f"x-{stage}-ms"] for stage in STAGES] == ["1.000", "2.000", "3.000"]
    assert float(headers["x-render-ms"]) >= 0


@pytest.mark.parametrize("wanted", ["abc-123", "x" * 128])
async def test_a_sane_request_id_is_kept(http: httpx.AsyncClient, service: InProcess, wanted: str) -> None:
    reply = await http.post("/v1/embeddings", json=BODY, headers={"x-request-id": wanted})
    assert reply.headers["x-request-id"] == wanted == service.jobs[0][1]


@pytest.mark.parametrize("wanted", ["", "x" * 129, "two words", "é".encode(), "a\tb"])
async def test_another_request_id_is_replaced(http: httpx.AsyncClient, wanted: str | bytes) -> None:
    reply = await http.get(
        "/health", headers={b"x-request-id": wanted if isinstance(wanted, bytes) else wanted.encode()}
    )
    assert len(reply.headers["x-request-id"]) == len("req_") + 32


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_large_requests_and_replies_go_through_threads(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, encoding_format: str
) -> None:
    threaded: list[str] = []
    to_thread = asyncio.to_thread

    async def spy(function: Callable[..., Any], *args: Any) -> Any:
        threaded.append(function.__name__)
        return await to_thread(function, *args)

    monkeypatch.setattr(asyncio, "to_thread", spy)
    monkeypatch.setattr(embeddings, "RENDER_INLINE_VALUES", 0)
    text = "a" * embeddings.PARSE_INLINE_BYTES
    large = await http.post("/v1/embeddings", json={**BODY, "input": text, "encoding_format": encoding_format})
    assert threaded == ["parse", "render"]
    monkeypatch.undo()
    small = await http.post("/v1/embeddings", json={**BODY, "input": text, "encoding_format": encoding_format})
    assert large.status_code == 200
    assert large.json() == small.json()


async def test_too_few_vectors_are_an_error(http: httpx.AsyncClient, service: InProcess) -> None:
    async def one_vector(job: EmbedJob, request_id: str) -> EmbedResult:
        return EmbedResult(np.zeros((1, HIDDEN), dtype=np.float32), 1)

    service.embed = one_vector  # type: ignore[method-assign]
    assert (await http.post("/v1/embeddings", json={**BODY, "input": ["a", "b"]})).status_code == 500


# --- what comes in


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_accepted(http: httpx.AsyncClient, media_type: str) -> None:
    reply = await http.post("/v1/embeddings", content=json.dumps(BODY), headers={"content-type": media_type})
    assert reply.status_code == 200


@pytest.mark.parametrize("coding", ["identity", "Identity"])
async def test_a_body_that_says_that_it_is_not_compressed(http: httpx.AsyncClient, coding: str) -> None:
    reply = await http.post("/v1/embeddings", json=BODY, headers={"content-encoding": coding})
    assert reply.status_code == 200


async def test_no_media_type_is_accepted(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/embeddings", content=json.dumps(BODY).encode())).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (
            {"content-type": "application/x-www-form-urlencoded"},
            "The body must be JSON: send it with 'Content-Type: application/json'.",
        ),
        ({"content-encoding": "gzip"}, "Compressed bodies aren't supported: send it without 'Content-Encoding'."),
    ],
)
async def test_other_media_are_refused(http: httpx.AsyncClient, headers: dict[str, str], message: str) -> None:
    reply = await http.post("/v1/embeddings", content=json.dumps(BODY), headers=headers)
    assert reply.status_code == 415
    assert reply.json() == error(message, "invalid_request_error", None, "unsupported_media_type")


TOO_LARGE = error(
    "The body is larger than 400000 bytes. Split the inputs over several requests.",
    "invalid_request_error",
    None,
    "request_too_large",
)


async def call(app: App, headers: dict[str, str], *messages: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """What the app sends, and how many of `messages` it took."""
    sent: list[dict[str, Any]] = []
    taken = 0

    async def receive() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return messages[taken - 1]

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": raw}, receive, send)
    return sent, taken


@pytest.mark.parametrize("length", ["400001", "9" * 5000])
async def test_a_declared_length_over_the_limit_is_refused_unread(service: InProcess, length: str) -> None:
    sent, taken = await call(build_app(service), {"content-length": length})
    assert (sent[0]["status"], taken) == (413, 0)
    assert json.loads(sent[1]["body"]) == TOO_LARGE


async def test_an_undeclared_body_is_counted_while_it_is_read(service: InProcess) -> None:
    chunk = {"type": "http.request", "body": b" " * 150_000, "more_body": True}
    sent, taken = await call(build_app(service), {}, *[chunk] * 9)
    assert (sent[0]["status"], taken) == (413, 3)
    assert json.loads(sent[1]["body"]) == TOO_LARGE


async def test_a_body_in_pieces(service: InProcess) -> None:
    pieces = [bytes([byte]) for byte in json.dumps(BODY).encode()]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    sent, _ = await call(build_app(service), {}, *messages, {"type": "http.request"})
    assert sent[0]["status"] == 200


# --- the other routes


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/nothing", ""),
        ("/v1/models/", " Did you mean /v1/models?"),
        ("/v1/embeddings/", " Did you mean /v1/embeddings?"),
        ("/embeddings", " Did you mean /v1/embeddings?"),
        ("/v1/v1/embeddings", " Did you mean /v1/embeddings?"),
        ("/v1/v2/embed", " Did you mean /v2/embed?"),
        ("/v1/tokenize/", " Did you mean /tokenize?"),
    ],
)
async def test_unknown_url(http: httpx.AsyncClient, path: str, hint: str) -> None:
    reply = await http.post(path, json=BODY)
    assert reply.status_code == 404
    assert reply.json() == error(f"Unknown URL: POST {path}.{hint}", "invalid_request_error", None, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/embeddings", "POST, OPTIONS"),
        ("HEAD", "/v1/embeddings", "POST, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/a/b", "GET, HEAD, OPTIONS"),
    ],
)
async def test_wrong_method(http: httpx.AsyncClient, method: str, path: str, allow: str) -> None:
    reply = await http.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)
    if method != "HEAD":
        message = f"{path} takes {allow}, not {method}."
        assert reply.json() == error(message, "invalid_request_error", None, "method_not_supported")


async def test_options(http: httpx.AsyncClient) -> None:
    reply = await http.options("/v1/embeddings")
    assert (reply.status_code, reply.headers["allow"], reply.content) == (200, "POST, OPTIONS", b"")
    assert (await http.options("/nothing")).status_code == 404


async def test_head_is_get_without_its_body(http: httpx.AsyncClient) -> None:
    head, get = await http.head("/health"), await http.get("/health")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


MODEL_OBJECT = {
    "id": MODEL,
    "object": "model",
    "created": 5,
    "owned_by": "Qwen",
    "dimensions": HIDDEN,
    "max_input_tokens": 512,
    "revision": "abc",
    "demo": False,
    "aliases": [],
    "prompts": dict(DEFAULT_PROMPTS),
}


async def test_models(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models")).json() == {"object": "list", "data": [MODEL_OBJECT]}


@pytest.mark.parametrize("name", [MODEL, MODEL.replace("/", "%2F"), "qwen3-embedding-0.6b"])
async def test_a_model(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/v1/models/{name}")).json() == MODEL_OBJECT


async def test_version(http: httpx.AsyncClient) -> None:
    assert (await http.get("/version")).json() == {"version": "1.2.3"}


async def test_health_and_readiness(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).content == b'{"status":"healthy"}'
    assert (await http.get("/ready")).content == b'{"status":"ready"}'


@pytest.mark.parametrize(("path", "word"), [("/health", "unhealthy"), ("/ready", "not ready")])
async def test_a_reason_makes_it_503(http: httpx.AsyncClient, service: InProcess, path: str, word: str) -> None:
    service.reason = "no replica"
    reply = await http.get(path)
    assert reply.status_code == 503
    why = error(f"The service is {word}: no replica", "server_error", None, "server_is_overloaded")
    assert reply.json() == {"status": word, "reason": "no replica", **why}


async def test_docs_need_no_network(http: httpx.AsyncClient) -> None:
    reply = await http.get("/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "POST /v1/embeddings" in reply.text
    assert "<script" not in reply.text
    assert "http" not in reply.text.replace("HTTP", "")


# --- failures


@pytest.mark.parametrize(
    ("exception", "status", "body", "retry"),
    [
        (
            UnavailableError("No replica."),
            503,
            error("No replica.", "server_error", None, "server_is_overloaded"),
            ("1", "true"),
        ),
        (
            DeadlineExceededError("Too late."),
            408,
            error("Too late.", "timeout", None, "deadline_exceeded"),
            ("1", "true"),
        ),
        (
            OverloadedError("Too much.", 2.25),
            429,
            error("Too much.", "tokens", None, "server_is_overloaded"),
            ("3", "true"),
        ),
        (
            CrashingInputError(3),
            422,
            error(
                "Input 3 made every replica that computed it crash, the last one by itself. Send the request without it.",
                "invalid_request_error",
                "input",
                "input_crashes_replica",
            ),
            (None, None),
        ),
        (
            RuntimeError("secret"),
            500,
            error(CONSTANT_500, "server_error", None, "internal_error"),
            (None, "false"),
        ),
        (EngineError("bad"), 500, error(CONSTANT_500, "server_error", None, "internal_error"), (None, "false")),
    ],
)
async def test_failures_of_the_service(
    http: httpx.AsyncClient,
    service: InProcess,
    exception: Exception,
    status: int,
    body: dict[str, Any],
    retry: tuple[str | None, str | None],
) -> None:
    service.before = fail(exception)
    reply = await http.post("/v1/embeddings", json=BODY)
    assert (reply.status_code, reply.json()) == (status, body)
    assert (reply.headers.get("retry-after"), reply.headers.get("x-should-retry")) == retry


@pytest.mark.parametrize(
    ("wait", "seconds", "milliseconds", "should_retry"),
    [
        (0.0, "1", "0", "true"),
        (0.3, "1", "300", "true"),
        (1.0, "1", "1000", "true"),
        (1.0001, "2", "1001", "true"),
        (60.0, "60", "60000", "true"),
        (60.5, "61", "60500", "false"),
    ],
)
async def test_when_to_come_back(
    http: httpx.AsyncClient, service: InProcess, wait: float, seconds: str, milliseconds: str, should_retry: str
) -> None:
    service.before = fail(OverloadedError("Too much.", wait))
    headers = (await http.post("/v1/embeddings", json=BODY)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == (seconds, milliseconds)
    assert headers["x-should-retry"] == should_retry


async def test_any_error_that_knows_when_says_so(http: httpx.AsyncClient, service: InProcess) -> None:
    failure = UnavailableError("Starting.")
    failure.retry_after = 7.5
    service.before = fail(failure)
    headers = (await http.post("/v1/embeddings", json=BODY)).headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("8", "7500")


async def test_the_openai_client_waits_as_long_as_it_is_told_and_succeeds(
    http: httpx.AsyncClient, service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[RequestError] = [OverloadedError("Too much.", 2.25), OverloadedError("Too much.", 41.0)]
    service.before = lambda: fail(refusals.pop(0))() if refusals else None
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("openai._base_client.anyio.sleep", sleep)
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http)
    reply = await client.embeddings.create(model=MODEL, input="a")
    assert len(reply.data[0].embedding) == HIDDEN
    assert slept == [2.25, 41.0]


async def test_the_openai_client_gives_up_at_once_where_waiting_is_hopeless(
    http: httpx.AsyncClient, service: InProcess
) -> None:
    service.before = fail(OverloadedError("Too much.", 600))
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.embeddings.create(model=MODEL, input="a")
    assert (caught.value.code, caught.value.type) == ("server_is_overloaded", "tokens")
    assert len(service.jobs) == 1


@pytest.mark.parametrize("header", ["x-request-timeout-seconds", "x-embedserve-timeout-seconds"])
async def test_the_caller_s_timeout_reaches_the_job(http: httpx.AsyncClient, service: InProcess, header: str) -> None:
    before = time.monotonic()
    assert (await http.post("/v1/embeddings", json=BODY, headers={header: " 2.5 "})).status_code == 200
    assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200
    jobs = [job for job, _ in service.jobs]
    assert [job.timeout_seconds for job in jobs] == [2.5, None]
    arrivals = [before, *(job.arrived_at for job in jobs if job.arrived_at is not None), time.monotonic()]
    assert len(arrivals) == 4
    assert arrivals == sorted(arrivals)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "1e999", "soon", "", "1,5", "1 2", "\xb2"])
async def test_a_timeout_that_is_none(http: httpx.AsyncClient, service: InProcess, value: str) -> None:
    name = "x-request-timeout-seconds"
    reply = await http.post("/v1/embeddings", json=BODY, headers={name: value.encode("latin-1")})
    message = f"The header '{name}' must be a number of seconds above 0."
    assert (reply.status_code, reply.json()) == (400, error(message, "invalid_request_error", name, None))
    assert "x-should-retry" not in reply.headers
    assert service.jobs == []


async def test_a_defect_is_logged_under_its_request_id_and_without_the_text(
    http: httpx.AsyncClient, service: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    text = "my-secret-text"

    def broken() -> None:
        try:
            raise EngineError("the batch failed")
        except EngineError as cause:
            raise ValueError(text) from cause

    service.before = broken
    with caplog.at_level(logging.ERROR):
        reply = await http.post("/v1/embeddings", json=BODY, headers={"x-request-id": "id-7"})
    assert reply.status_code == 500
    for part in ("id-7", "ValueError", "EngineError: the batch failed", "in broken"):
        assert part in caplog.text
    assert text not in caplog.text + reply.text


async def test_cancellation_passes_through(service: InProcess) -> None:
    service.before = fail(asyncio.CancelledError())
    body = {"type": "http.request", "body": json.dumps(BODY).encode()}
    seen: list[Outcome] = []
    with pytest.raises(asyncio.CancelledError):
        await call(build_app(service, observe=seen.append), {}, body)
    assert [outcome.status for outcome in seen] == [499]


class Connection:
    """A client that sends its body and hangs up when told to."""

    def __init__(self) -> None:
        self.hang_up = asyncio.Event()
        self.sent: list[Any] = []
        self._bodies = [{"type": "http.request", "body": json.dumps(BODY).encode()}]

    async def receive(self) -> dict[str, Any]:
        if self._bodies:
            return self._bodies.pop()
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def post(self, app: App) -> None:
        await app({"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}, self.receive, self.send)


async def test_a_disconnect_cancels_the_work(service: InProcess) -> None:
    connection, cancelled = Connection(), asyncio.Event()

    async def endless() -> None:
        connection.hang_up.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    service.before = endless
    seen: list[Outcome] = []
    async with asyncio.timeout(30):
        await connection.post(build_app(service, observe=seen.append))
    assert cancelled.is_set()
    assert connection.sent == []
    assert [outcome.status for outcome in seen] == [499]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_while_listening_is_not_taken_for_a_disconnect(
    service: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.api.disconnect.GRACE_SECONDS", 0)
    connection, waiting = Connection(), asyncio.Event()

    async def endless() -> None:
        await asyncio.sleep(0.01)
        waiting.set()
        await asyncio.Event().wait()

    service.before = endless
    task = asyncio.create_task(connection.post(build_app(service)))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_a_client_that_leaves_while_sending(service: InProcess) -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    sent, _ = await call(build_app(service), {}, part, {"type": "http.disconnect"})
    assert (sent, service.jobs) == ([], [])


# --- the app's own hooks


async def test_every_request_is_observed_once(service: InProcess) -> None:
    seen: list[Outcome] = []
    transport = httpx.ASGITransport(build_app(service, observe=seen.append))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        await http.post("/v1/embeddings", json=BODY, headers={"x-request-id": "id-1"})
        await http.post("/v1/embeddings", json={})
        await http.get("/v1/models/unknown")
        await http.request("BREW", "/health")
    assert [(o.method, o.path, o.status, o.code) for o in seen] == [
        ("POST", "/v1/embeddings", 200, None),
        ("POST", "/v1/embeddings", 400, None),
        ("GET", "/v1/models/{model}", 404, "model_not_found"),
        ("", "", 405, "method_not_supported"),
    ]
    assert seen[0].request_id == "id-1"
    assert set(seen[0].stage_seconds) == set(Stage)
    assert all(outcome.seconds > 0 for outcome in seen)


async def test_extra_routes(service: InProcess) -> None:
    async def metrics(request: Request) -> Reply:
        return Reply(200, b"up 1\n", b"text/plain")

    route = Route("GET", "/metrics", metrics, "Prometheus metrics", {200: "text/plain"})
    transport = httpx.ASGITransport(build_app(service, [route]))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/metrics")).text == "up 1\n"
        assert "/metrics" in (await http.get("/openapi.json")).json()["paths"]


async def test_a_route_writes_all_its_errors_in_its_own_words(service: InProcess) -> None:
    async def handler(request: Request) -> Reply:
        raise {b"1": UnavailableError("No replica."), b"2": ValueError("secret")}[request.content_length]

    def errors(error: RequestError, request: Request) -> Reply:
        return Reply(error.status, f"{request.id}: {error.message}".encode(), b"text/plain")

    route = Route("POST", "/own", handler, "Another dialect", errors=errors)
    transport = httpx.ASGITransport(build_app(service, [route]))
    headers = {"x-request-id": "r"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
        replies = [await http.post("/own", content=b"x" * length) for length in (1, 2)]
        replies.append(await http.get("/own"))
    assert [(reply.status_code, reply.text) for reply in replies] == [
        (503, "r: No replica."),
        (500, f"r: {CONSTANT_500}"),
        (405, "r: /own takes POST, OPTIONS, not GET."),
    ]
    assert replies[2].headers["allow"] == "POST, OPTIONS"


async def test_inputs_that_were_truncated_are_counted_in_a_header(http: httpx.AsyncClient, service: InProcess) -> None:
    assert "x-truncated-inputs" not in (await http.post("/v1/embeddings", json=BODY)).headers

    def cut() -> None:
        service.jobs[-1][0].truncated = 2

    service.before = cut
    assert (await http.post("/v1/embeddings", json=BODY)).headers["x-truncated-inputs"] == "2"


async def test_lifespan(service: InProcess) -> None:
    incoming = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(incoming)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await build_app(service)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_root_path_is_no_part_of_the_route(service: InProcess) -> None:
    transport = httpx.ASGITransport(build_app(service), root_path="/embed")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/embed/health")).status_code == 200


# --- the OpenAI client


async def test_openai_client(client: openai.AsyncOpenAI, service: InProcess) -> None:
    reply = await client.embeddings.create(input=["a", "b"], model=MODEL, dimensions=32)
    job = service.jobs[0][0]
    assert isinstance(job, EmbeddingsJob) and job.base64
    assert [item.index for item in reply.data] == [0, 1]
    for item, text in zip(reply.data, "ab", strict=True):
        assert np.array_equal(np.array(item.embedding, dtype=np.float32), vector(text, 32))
    assert (reply.model, reply.usage.prompt_tokens, reply.usage.total_tokens) == (MODEL, 6, 6)


async def test_openai_client_with_floats_and_token_ids(client: openai.AsyncOpenAI) -> None:
    reply = await client.embeddings.create(input=[[1, 2], [3]], model=MODEL, encoding_format="float")
    assert np.array_equal(np.array(reply.data[0].embedding, dtype=np.float32), vector("1,2", HIDDEN))


async def test_openai_client_with_extensions(client: openai.AsyncOpenAI, service: InProcess) -> None:
    await client.embeddings.create(input="a", model=MODEL, extra_body={"instruction": "Find", "priority": "bulk"})
    assert service.jobs[0][0].prompt == "Instruct: Find\nQuery:"


@pytest.mark.parametrize("name", ["float16", "int8", "uint8", "binary", "ubinary"])
async def test_openai_client_with_quantised_vectors(client: openai.AsyncOpenAI, name: str) -> None:
    """The client reads as float32 only what nobody asked a format for; the rest it hands on as it comes."""
    wanted = quantise(vector("a", HIDDEN)[None], OutputType(name))[0]
    numbers = await client.embeddings.create(input="a", model=MODEL, encoding_format=name)  # type: ignore[arg-type]
    assert np.array_equal(np.array(numbers.data[0].embedding, wanted.dtype), wanted)
    packed = await client.embeddings.create(input="a", model=MODEL, encoding_format=f"base64_{name}")  # type: ignore[arg-type]
    raw: Any = packed.data[0].embedding
    assert np.array_equal(np.frombuffer(base64.b64decode(raw), wanted.dtype), wanted)


async def test_openai_client_lists_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL


@pytest.mark.parametrize(
    ("fields", "class_", "param", "code"),
    [
        ({"input": ""}, openai.BadRequestError, "input", None),
        ({"model": "gpt"}, openai.NotFoundError, "model", "model_not_found"),
        ({"input": "a" * 400_000}, openai.APIStatusError, None, "request_too_large"),
    ],
)
async def test_openai_client_exceptions(
    client: openai.AsyncOpenAI,
    fields: dict[str, Any],
    class_: type[openai.APIStatusError],
    param: str | None,
    code: str | None,
) -> None:
    with pytest.raises(class_) as caught:
        await client.embeddings.create(**{**BODY, **fields})
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.request_id is not None


@pytest.mark.parametrize(("exception", "tries"), [(UnavailableError("No replica."), 2), (ValueError("a defect"), 1)])
async def test_openai_client_retries_what_passes(
    client: openai.AsyncOpenAI, service: InProcess, monkeypatch: pytest.MonkeyPatch, exception: Exception, tries: int
) -> None:
    async def no_sleep(*args: object) -> None:
        return None

    monkeypatch.setattr("anyio.sleep", no_sleep)
    service.before = fail(exception)
    with pytest.raises(openai.InternalServerError):
        await client.with_options(max_retries=1).embeddings.create(**BODY)  # type: ignore[arg-type]
    assert len(service.jobs) == tries


# --- rubbish

FUZZ_APP = build_app(InProcess())
FIELDS = ["input", "model", "dimensions", "encoding_format", "truncate", "truncate_prompt_tokens", "priority", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([MODEL, "base64", "end"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
REQUESTS = st.dictionaries(st.sampled_from(FIELDS), VALUES).map(lambda fields: {**BODY, **fields})
BODIES = st.one_of(
    st.binary(),
    REQUESTS.map(lambda fields: json.dumps(fields).encode()),
    st.tuples(REQUESTS, st.binary(max_size=4), st.integers(0, 80)).map(
        lambda t: (body := json.dumps(t[0]).encode())[: t[2]] + t[1] + body[t[2] + len(t[1]) :]
    ),
)


@settings(max_examples=200, deadline=None)
@given(BODIES)
def test_no_body_breaks_it(body: bytes) -> None:
    sent, _ = asyncio.run(call(FUZZ_APP, {}, {"type": "http.request", "body": body}))
    reply = json.loads(sent[1]["body"])
    if sent[0]["status"] != 200:
        assert 400 <= sent[0]["status"] < 500
        assert list(reply) == ["error"]
        assert list(reply["error"]) == ["message", "type", "param", "code"]
