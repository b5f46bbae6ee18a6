"""Who is let in, and what those who aren't get to know: nothing, on any path, with any header."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.key import hashed
from serve_app.api.routing import Access
from tests.guarded import Guarded, key
from tests.in_process import MODEL
from tests.test_app import BODY

POST = json.dumps(BODY).encode()
JSON = (b"content-type", b"application/json")
GOOD = (b"authorization", b"Bearer a-secret")

MISSING = {
    "message": "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'.",
    "type": "invalid_request_error",
    "param": None,
    "code": None,
}
WRONG = {
    "message": "Incorrect API key provided. Ask whoever runs this service for one.",
    "type": "invalid_request_error",
    "param": None,
    "code": "invalid_api_key",
}


@pytest.fixture
def guarded() -> Guarded:
    return Guarded(key("a"), key("boss", admin=True))


async def refused(
    guarded: Guarded, method: str, path: str, *headers: tuple[bytes, bytes], **scope: Any
) -> dict[str, Any]:
    status, said, body = await guarded.send(method, path, [JSON, *headers], POST, **scope)
    assert status == 401
    assert said[b"www-authenticate"] == b"Bearer"
    assert set(said) == {
        b"content-type",
        b"content-length",
        b"x-request-id",
        b"openai-version",
        b"openai-processing-ms",
        b"www-authenticate",
    }
    return dict(json.loads(body)["error"]) if method != "HEAD" else {}


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/v1/models", f"/v1/models/{MODEL}", "/version", "/metrics", "/docs", "/openapi.json"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "TRACE"])
async def test_every_other_route_wants_a_key_whatever_the_method(guarded: Guarded, method: str, path: str) -> None:
    said = await refused(guarded, method, path)
    assert said == ({} if method == "HEAD" else MISSING)
    assert guarded.service.jobs == []


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_health_is_public(guarded: Guarded, path: str) -> None:
    for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 200), ("POST", 405)):
        assert (await guarded.send(method, path))[0] == status


async def test_all_routes_but_those_two_are_guarded(guarded: Guarded) -> None:
    public = {route.path for route in guarded.app.router.routes if route.access is Access.PUBLIC}
    assert public == {"/health", "/ready"}


UNKNOWN = """/v1/nothing /health/ /healthx /health/../v1/embeddings //health /HEALTH /v1/embeddings/ /v1/embeddings?x=/health
/v1/embeddings;/health /v1/embeddings%2f..%2fhealth /v1/models/ /ünï"""


@pytest.mark.parametrize("path", ["", "/ready\n", "/x\x00/health", *UNKNOWN.split()])
async def test_unknown_paths_say_nothing_of_what_there_is(guarded: Guarded, path: str) -> None:
    assert await refused(guarded, "POST", path) == MISSING
    assert guarded.service.jobs == []


async def test_with_a_key_unknown_paths_are_named(guarded: Guarded) -> None:
    status, _, body = await guarded.send("POST", "/embeddings", [GOOD])
    assert status == 404
    assert "Did you mean /v1/embeddings?" in json.loads(body)["error"]["message"]
    status, headers, _ = await guarded.send("GET", "/v1/embeddings", [GOOD])
    assert (status, headers[b"allow"]) == (405, b"POST, OPTIONS")


@pytest.mark.parametrize(
    "scope",
    [
        {"headers_": [(b"host", b"test/health")]},
        {"headers_": [(b"host", b"test?x=/health#")]},
        {
            "headers_": [
                (b"x-original-url", b"/health"),
                (b"x-rewrite-url", b"/health"),
                (b"x-forwarded-path", b"/health"),
            ]
        },
        {"headers_": [(b"x-http-method-override", b"OPTIONS")]},
        {"raw_path": b"/health"},
        {"query_string": b"/health"},
        {"scheme": "https", "server": ("127.0.0.1", 47000), "client": ("127.0.0.1", 1)},
    ],
)
async def test_only_the_routed_path_decides(guarded: Guarded, scope: dict[str, Any]) -> None:
    """The Host header, the port and whatever else a client can make up don't: direct ingress runs this same app."""
    headers = scope.pop("headers_", [])
    assert await refused(guarded, "POST", "/v1/embeddings", *headers, **scope) == MISSING


async def test_under_a_root_path_the_same_holds(guarded: Guarded) -> None:
    assert await refused(guarded, "POST", "/app/v1/embeddings", root_path="/app") == MISSING
    assert (await guarded.send("GET", "/app/health", root_path="/app"))[0] == 200
    # What the root path is taken off must leave the very path that is routed.
    assert await refused(guarded, "GET", "/health/v1/models", root_path="/health") == MISSING


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer wrong",
        b"Bearer " + hashed("a-secret").encode(),
        b"Bearer a-secre",
        b"Bearer a-secret2",
        b"Bearer A-SECRET",
        b"Basic YS1zZWNyZXQ=",
        b"a-secret",
        b"Bearera-secret",
        b"Token a-secret",
        b"Bearer ' OR 1=1 --",
        b"Bearer a-secret'; DROP TABLE keys; --",
        b"Bearer a-secret, Bearer a-secret",
        b"Bearer a-secret a-secret",
        b"Bearer " + "ä-secret".encode(),
        b"Bearer \xff\xfe\x00",
        b"Bearer a-secret\x00",
        b"Bearer " + b"x" * 1_000_000,
        b"x" * 1_000_000,
        b" " * 100_000 + b"Bearer a-secret",
        b"\tBearer a-secret",
        b"Bearer ../../etc/passwd",
        b"Bearer ${jndi:ldap://x}",
    ],
)
async def test_whatever_else_is_sent_gets_one_constant_answer(guarded: Guarded, value: bytes) -> None:
    assert await refused(guarded, "POST", "/v1/embeddings", (b"authorization", value)) == WRONG
    assert guarded.service.jobs == []
    [outcome] = guarded.outcomes
    assert (outcome.status, outcome.code, outcome.key) == (401, "invalid_api_key", "")


@given(st.binary(max_size=300))
async def test_no_header_is_too_strange(value: bytes) -> None:
    guarded = Guarded(key("a"))
    assert await refused(guarded, "POST", "/v1/embeddings", (b"authorization", value)) in (MISSING, WRONG)


@pytest.mark.parametrize("value", [b"", b" ", b"Bearer", b"Bearer ", b"bearer   "])
async def test_a_scheme_without_a_key_is_none(guarded: Guarded, value: bytes) -> None:
    assert await refused(guarded, "POST", "/v1/embeddings", (b"authorization", value)) == MISSING


async def test_two_headers_are_none_even_if_one_is_good(guarded: Guarded) -> None:
    for headers in ([GOOD, GOOD], [GOOD, (b"authorization", b"Bearer x")], [(b"authorization", b"Basic x"), GOOD]):
        assert await refused(guarded, "POST", "/v1/embeddings", *headers) == WRONG


@pytest.mark.parametrize("value", [b"Bearer a-secret", b"bearer a-secret", b"BEARER  a-secret "])
async def test_the_scheme_has_no_case(guarded: Guarded, value: bytes) -> None:
    assert (await guarded.send("POST", "/v1/embeddings", [(b"authorization", value)], POST))[0] == 200


async def test_the_key_is_named_to_the_job_and_to_metrics(guarded: Guarded) -> None:
    assert (await guarded.send("POST", "/v1/embeddings", [GOOD], POST))[0] == 200
    assert guarded.service.jobs[0][0].tenant == "a"
    [outcome] = guarded.outcomes
    assert (outcome.key, outcome.prompt_tokens, outcome.inputs) == ("a", 3, 1)


async def test_openais_client_knows_the_errors(guarded: Guarded) -> None:
    async with guarded.client() as http:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="b-secret", http_client=http, max_retries=0)
        with pytest.raises(openai.AuthenticationError) as raised:
            await client.embeddings.create(model=MODEL, input="hello")
        assert (raised.value.code, raised.value.body) == ("invalid_api_key", WRONG)
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="a-secret", http_client=http, max_retries=0)
        assert len((await client.embeddings.create(model=MODEL, input="hello")).data) == 1


async def test_a_revoked_key_is_refused_at_once(guarded: Guarded) -> None:
    guarded.keys.ring = type(guarded.keys.ring)([key("boss")])
    assert await refused(guarded, "GET", "/v1/models", GOOD) == WRONG


async def test_without_keys_everybody_may_do_everything() -> None:
    open_app = Guarded()
    open_app.app.guard = None
    for headers in ([], [(b"authorization", b"Bearer whatever")]):
        assert (await open_app.send("POST", "/v1/embeddings", headers, POST))[0] == 200
    assert [job.tenant for job, _ in open_app.service.jobs] == ["", ""]


async def test_a_guard_with_no_keys_lets_nobody_in() -> None:
    assert await refused(Guarded(), "POST", "/v1/embeddings", GOOD) == WRONG
