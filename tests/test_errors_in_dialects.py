"""Every error that can reach a client, in every dialect: its status, its words, and what the SDKs make of it.

What an error says to do is said in the dialect's own fields. An error class that isn't in the table fails the first test.
"""

# ruff: noqa: E501 - a table of messages, one case a line

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import cohere
import httpx
import openai
import pytest
from cohere import errors as c
from cohere.core.api_error import ApiError
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from serve_app import errors as e
from serve_app.api import body
from serve_app.api.app import build_app
from tests.demo_service import listening
from tests.guarded import Guarded, key
from tests.in_process import MODEL, InProcess, fail

CONSTANT_500 = "The server had an error while processing your request. Quote the x-request-id header."
NO_KEY = "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'."
BAD_KEY = "Incorrect API key provided. Ask whoever runs this service for one."
LONG = "Input length 600 exceeds maximum allowed length 512 (input index 1)"
MEMORY = "An input of 9000 tokens needs more memory than the server's device has. Send it in shorter pieces."
CRASH = "Input 3 made every replica that computed it crash, the last one by itself. Send the request without it."
BAD, MANY = "invalid_request_error", "max_tokens_per_request"


class Case(NamedTuple):
    error: Exception
    openai: tuple[int, str, str | None, str | None, type[openai.APIStatusError], str]
    """Status, type, param, code, exception, message."""
    cohere: tuple[int, type[ApiError], str]
    tei: tuple[int, str, str]
    """Status, error_type, error."""


CASES = [
    Case(e.InvalidRequestError("No.", "x"), (400, BAD, "x", None, openai.BadRequestError, "No."), (400, c.BadRequestError, "invalid request: No."), (422, "Validation", "No.")),
    Case(e.EmptyListError("Empty.", "input"), (400, BAD, "input", None, openai.BadRequestError, "Empty."), (400, c.BadRequestError, "invalid request: Empty."), (400, "Empty", "Empty.")),
    Case(
        e.InputTooLongError(600, 512, 1),
        (400, BAD, "input", None, openai.BadRequestError, LONG),
        (400, c.BadRequestError, f"invalid request: {LONG}. Send truncate=END or truncate=START to have it cut."),
        (422, "Validation", "Input validation error: `inputs` must have less than 512 tokens. Given: 600 (input index 1). Send 'truncate': true to have it cut."),
    ),
    Case(
        e.TooManyTokensError("Requested 9 tokens, max 5 tokens per request", "input"),
        (400, MANY, "input", MANY, openai.BadRequestError, "Requested 9 tokens, max 5 tokens per request"),
        (400, c.BadRequestError, "invalid request: Requested 9 tokens, max 5 tokens per request"),
        (422, "Validation", "Requested 9 tokens, max 5 tokens per request"),
    ),
    Case(
        e.InputOverMemoryError(9000),
        (400, BAD, "input", "input_over_memory", openai.BadRequestError, f"{MEMORY} 'truncate_prompt_tokens' cuts it too."),
        (400, c.BadRequestError, f"invalid request: {MEMORY} A lower max_tokens with truncate=END or truncate=START cuts it too."),
        (422, "Validation", MEMORY),
    ),
    Case(e.MissingKeyError(), (401, BAD, None, None, openai.AuthenticationError, NO_KEY), (401, c.UnauthorizedError, "no api key supplied"), (401, "Validation", NO_KEY)),
    Case(e.InvalidKeyError(), (401, BAD, None, "invalid_api_key", openai.AuthenticationError, BAD_KEY), (401, c.UnauthorizedError, "invalid api token"), (401, "Validation", BAD_KEY)),
    Case(e.ForbiddenError("Not you."), (403, BAD, None, "insufficient_permissions", openai.PermissionDeniedError, "Not you."), (403, c.ForbiddenError, "Not you."), (403, "Validation", "Not you.")),
    Case(e.ModelNotAllowedError("Not it.", "model"), (403, BAD, "model", "model_not_found", openai.PermissionDeniedError, "Not it."), (403, c.ForbiddenError, "Not it."), (403, "Validation", "Not it.")),
    Case(e.ModelNotFoundError("None.", "model"), (404, BAD, "model", "model_not_found", openai.NotFoundError, "None."), (404, c.NotFoundError, "None."), (404, "Validation", "None.")),
    Case(e.RouteNotFoundError("Where?"), (404, BAD, None, "unknown_url", openai.NotFoundError, "Where?"), (404, c.NotFoundError, "Where?"), (404, "Validation", "Where?")),
    Case(e.MethodNotAllowedError("How?"), (405, BAD, None, "method_not_supported", openai.APIStatusError, "How?"), (405, ApiError, "How?"), (405, "Validation", "How?")),
    Case(e.DeadlineExceededError("Late."), (408, "timeout", None, "deadline_exceeded", openai.APIStatusError, "Late."), (504, c.GatewayTimeoutError, "Late."), (408, "Overloaded", "Late.")),
    Case(e.PayloadTooLargeError("Big."), (413, BAD, None, "request_too_large", openai.APIStatusError, "Big."), (413, ApiError, "Big."), (413, "Validation", "Big.")),
    Case(e.UnsupportedMediaTypeError("XML."), (415, BAD, None, "unsupported_media_type", openai.APIStatusError, "XML."), (415, ApiError, "XML."), (415, "Validation", "XML.")),
    Case(e.CrashingInputError(3), (422, BAD, "input", "input_crashes_replica", openai.UnprocessableEntityError, CRASH), (422, c.UnprocessableEntityError, CRASH), (422, "Validation", CRASH)),
    Case(e.OverloadedError("Full.", 2.0), (429, "tokens", None, "server_is_overloaded", openai.RateLimitError, "Full."), (429, c.TooManyRequestsError, "Full."), (429, "Overloaded", "Full.")),
    Case(e.RateLimitedError("Slow.", "requests", 2.0), (429, "requests", None, "rate_limit_exceeded", openai.RateLimitError, "Slow."), (429, c.TooManyRequestsError, "Slow."), (429, "Overloaded", "Slow.")),
    Case(ValueError("secret"), (500, "server_error", None, "internal_error", openai.InternalServerError, CONSTANT_500), (500, c.InternalServerError, CONSTANT_500), (424, "Backend", CONSTANT_500)),
    Case(e.InternalError(), (500, "server_error", None, "internal_error", openai.InternalServerError, CONSTANT_500), (500, c.InternalServerError, CONSTANT_500), (424, "Backend", CONSTANT_500)),
    Case(e.UnavailableError("Down."), (503, "server_error", None, "server_is_overloaded", openai.InternalServerError, "Down."), (503, c.ServiceUnavailableError, "Down."), (503, "Unhealthy", "Down.")),
]  # fmt: skip

IDS = [type(case.error).__name__ for case in CASES]
ONLY = {
    "openai": ("truncate_prompt_tokens", "encoding_format", "'input'"),
    "cohere": ("max_tokens ", "truncate=", "texts", "output_dimension", "embedding_types"),
    "tei": ("`inputs`", "'truncate': true", "truncation_direction"),
}


def test_no_error_is_missing_and_each_speaks_its_own_dialect() -> None:
    classes = [e.RequestError]
    for each in classes:
        classes += each.__subclasses__()
    bases = {e.RequestError, e.AuthenticationError}
    assert {each for each in classes if each.__module__.startswith(e.__name__ + ".")} - bases == {
        type(case.error) for case in CASES if isinstance(case.error, e.RequestError)
    }
    for case in CASES:
        for dialect, words in ONLY.items():
            for other in ONLY.keys() - {dialect}:
                assert not [word for word in words if word in getattr(case, other)[-1]], (dialect, other)


@pytest.fixture
def service() -> InProcess:
    return InProcess()


@pytest.fixture
async def http(service: InProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(build_app(service)), base_url="http://test", headers={"x-request-id": "r"}
    ) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=IDS)
async def test_openai(http: httpx.AsyncClient, service: InProcess, case: Case) -> None:
    service.before = fail(case.error)
    status, type_, param, code, exception, message = case.openai
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=http, max_retries=0)
    with pytest.raises(exception) as caught:
        await client.embeddings.create(model=MODEL, input="a")
    assert type(caught.value) is exception
    assert (caught.value.status_code, caught.value.type, caught.value.param, caught.value.code) == (
        status,
        type_,
        param,
        code,
    )
    assert caught.value.body == {"message": message, "type": type_, "param": param, "code": code}
    assert caught.value.request_id == "r"


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("version", ["AsyncClient", "AsyncClientV2"])
async def test_cohere(http: httpx.AsyncClient, service: InProcess, case: Case, version: str) -> None:
    service.before = fail(case.error)
    status, exception, message = case.cohere
    client = getattr(cohere, version)("key", base_url="http://test", httpx_client=http)
    with pytest.raises(exception) as caught:
        await client.embed(model=MODEL, input_type="search_document", texts=["a"], request_options={"max_retries": 0})
    assert type(caught.value) is exception
    assert (caught.value.status_code, caught.value.body) == (status, {"message": message, "id": "r"})


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("path", ["/embed", "/", "/embed_all", "/similarity"])
async def test_tei(http: httpx.AsyncClient, service: InProcess, case: Case, path: str) -> None:
    service.before = fail(case.error)
    status, error_type, message = case.tei
    inputs: Any = {"source_sentence": "a", "sentences": ["b"]} if path == "/similarity" else "a"
    reply = await http.post(path, json={"inputs": inputs})
    assert (reply.status_code, reply.json()) == (status, {"error": message, "error_type": error_type})


@pytest.mark.parametrize("value", ["soon", "0"])
async def test_a_bad_timeout_in_every_dialect(http: httpx.AsyncClient, value: str) -> None:
    headers = {"x-request-timeout-seconds": value}
    message = "The header 'x-request-timeout-seconds' must be a number of seconds above 0."
    reply = await http.post("/v1/embeddings", json={"model": MODEL, "input": "a"}, headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-request-timeout-seconds")
    for path in ("/v1/embed", "/v2/embed"):
        reply = await http.post(path, json={"texts": ["a"]}, headers=headers)
        assert (reply.status_code, reply.json()) == (400, {"message": f"invalid request: {message}", "id": "r"})
    for path in ("/embed", "/", "/embed_all", "/similarity"):
        reply = await http.post(path, json={"inputs": "a"}, headers=headers)
        assert (reply.status_code, reply.json()) == (422, {"error": message, "error_type": "Validation"})


async def test_a_body_that_never_ends_is_given_up(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.0)

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"input":'
        await asyncio.Event().wait()

    message = "The body wasn't complete after 0 s. Send less at a time."
    for path, status in (("/v1/embeddings", 408), ("/v2/embed", 504), ("/embed", 408), ("/tokenize", 408)):
        reply = await http.post(path, content=trickle())
        assert reply.status_code == status
        assert message in reply.text
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("1", "true")


async def test_without_a_model_every_dialect_says_so(service: InProcess) -> None:
    service.models = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://test") as http:
        for path, sent in (
            ("/v1/embeddings", {"model": "a", "input": "a"}),
            ("/v1/embed", {"texts": ["a"]}),
            ("/v1/embed", {"model": "a", "texts": ["a"]}),
            ("/v2/embed", {"model": "a", "input_type": "clustering", "texts": ["a"]}),
            ("/embed", {"inputs": "a"}),
            ("/tokenize", {"inputs": "a"}),
        ):
            assert (await http.post(path, json=sent)).status_code == 404, path


@pytest.mark.parametrize(("sent", "needs"), [(b"[]", "'texts'"), (b"1", "'texts'")])
async def test_v1_names_only_what_it_needs(http: httpx.AsyncClient, sent: bytes, needs: str) -> None:
    reply = await http.post("/v1/embed", content=sent)
    assert reply.json()["message"] == f"invalid request: the body must be a JSON object with {needs}"


# --- keys, with TEI's clients


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    with listening(Guarded(key("a", requests_per_minute=1), key("b", models=frozenset({"other"}))).app) as url:
        yield url


@pytest.mark.parametrize(
    ("secret", "status", "error", "error_type"),
    [
        ("wrong", 401, BAD_KEY, "Validation"),
        ("b-secret", 403, f"Your API key may not use the model '{MODEL}'.", "Validation"),
        ("a-secret", 429, "Rate limit reached for requests per min: Limit 1, Used 1, Requested 1.", "Overloaded"),
    ],
)
def test_hugging_face_s_client_raises_its_own_error(
    guarded_url: str, secret: str, status: int, error: str, error_type: str
) -> None:
    client = InferenceClient(guarded_url, token=secret)
    with pytest.raises(HfHubHTTPError) as caught:
        for _ in range(2):
            client.feature_extraction("hello")
    reply = caught.value.response.json()
    assert (caught.value.response.status_code, reply["error_type"]) == (status, error_type)
    assert reply["error"].startswith(error)
    assert error in str(caught.value)


async def test_tei_s_routes_without_a_key_answer_in_tei_s_words() -> None:
    guarded = Guarded(key("a"))
    async with guarded.client() as http:
        for method, path in (("POST", "/embed"), ("POST", "/"), ("GET", "/info"), ("POST", "/tokenize")):
            reply = await http.request(method, path)
            assert (reply.status_code, reply.json()) == (401, {"error": NO_KEY, "error_type": "Validation"})
            assert reply.headers["www-authenticate"] == "Bearer"


# --- what isn't about vectors: OpenAI's words


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/docs", "/openapi.json"])
async def test_operators_routes_answer_in_openai_s_words(path: str) -> None:
    guarded = Guarded(key("a"), key("boss", admin=True))
    async with guarded.client() as http:
        reply = await http.get(path)
        assert (reply.status_code, reply.json()["error"]) == (
            401,
            {"message": NO_KEY, "type": BAD, "param": None, "code": None},
        )
    async with guarded.client("boss-secret") as http:
        assert (await http.get(path)).status_code == 200
        reply = await http.post(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (405, "method_not_supported")
        assert reply.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_metrics_are_for_admins() -> None:
    async with Guarded(key("a")).client("a-secret") as http:
        for method in ("GET", "HEAD"):
            reply = await http.request(method, "/metrics")
            assert reply.status_code == 403
        message = "This needs an API key with 'admin'."
        assert (await http.get("/metrics")).json()["error"] == {
            "message": message,
            "type": BAD,
            "param": None,
            "code": "insufficient_permissions",
        }


async def test_a_model_that_a_key_may_not_use_is_not_described_to_it() -> None:
    guarded = Guarded(key("a"), key("b", models=frozenset({"other"})))
    async with guarded.client("a-secret") as http:
        assert (await http.get(f"/v1/models/{MODEL}")).status_code == 200
    async with guarded.client("b-secret") as http:
        assert (await http.get("/v1/models")).json()["data"] == []
        refused = await http.get(f"/v1/models/{MODEL}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_found")
