"""What published vulnerabilities of comparable servers came from, tried on this one.

| CVE | cause | tests below |
|---|---|---|
| vLLM 2026-48746, Starlette 2026-48710 | a crafted Host decides which path is authorised | `…host_header…` |
| vLLM 2025-59425 | keys compared byte by byte | `…only_hashes_are_compared…` |
| vLLM 2025-48956 | a giant header fills memory | `…giant_headers…` |
| vLLM 2026-34756, Triton 2025-33201, 2026-24146, 2026-24173 | no bounds | `…no_number…`, `…no_list…`, `…no_payload…` |
| vLLM 2025-62426 | the caller's arguments make the event loop tokenize | `…event_loop…`, `…no_field_steers…` |
| LiteLLM 2024-6587, TGI 2026-0599 | fields that have the server fetch | `…no_field_steers…`, `…no_image…` |
| vLLM 2025-48944, 2026-9540 (and tensors: 2025-62164, 2025-62372) | a malformed field kills a worker | `test_fuzz.py` |
| vLLM 2026-44222 | special tokens typed as plain text | `…special_tokens…` |
| vLLM 2026-22778, Triton 2025-23319, -23320, -23334 | errors tell of the inside | `…a_defect_says_nothing…` |
| vLLM 2024-8768 | an empty prompt | `…nothing_at_all…` |
| LiteLLM 2026-42208 | the Authorization header gets into a query | `…authorization_header…` |
| LiteLLM 2026-42271 | an ordinary key calls admin routes | `…no_admin` |
| Triton 2025-23310, -23311 | megabytes in tiny chunks overflow the stack | `…single_bytes` |

Ray 2023-48022 and 2026-27482 (job API, dashboard) are in `test_quota_cluster.py`: `…run_nobody_s_programs`. SGLang 2026-7669
(tokenizers that are code) has no counterpart in a request.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serve_app.access import key as key_module
from serve_app.access.key import KeyRing
from serve_app.api.app import build_app
from serve_app.api.body import read_body
from serve_app.api.http import Request
from serve_app.api.routing import Access
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.errors import PayloadTooLargeError
from serve_app.types import DEMO_MODEL_ID, EmbedJob, Limits
from tests.demo_service import DemoService
from tests.guarded import Guarded, key
from tests.in_process import MODEL
from tests.reference import VOCABULARY, tokenizer

BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": MODEL, "input": "a"},
    "/v1/embed": {"model": MODEL, "texts": ["a"], "input_type": "query"},
    "/v2/embed": {"model": MODEL, "texts": ["a"], "input_type": "query", "embedding_types": ["float"]},
    "/embed": {"inputs": "a"},
    "/": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
}
FIELD = {"/v1/embeddings": "input", "/v1/embed": "texts", "/v2/embed": "texts", "/embed": "inputs", "/": "inputs"}
GOOD = (b"authorization", b"Bearer a-secret")


@pytest.fixture
def guarded() -> Guarded:
    return Guarded(key("a"))


async def post(guarded: Guarded, path: str, body: Any, *headers: tuple[bytes, bytes]) -> tuple[int, str]:
    status, _, said = await guarded.send("POST", path, [*headers], json.dumps(body).encode())
    return status, said.decode()


@pytest.mark.parametrize(
    "host", [b"x/health", b"x/health?", b"x?/health#", b"/health", b"x@/health", b"", b"x\\health"]
)
@pytest.mark.parametrize("path", BODIES)
async def test_the_host_header_authorises_nothing(guarded: Guarded, path: str, host: bytes) -> None:
    assert (await post(guarded, path, BODIES[path], (b"host", host)))[0] == 401
    assert (await post(guarded, path, BODIES[path], (b"host", host), GOOD))[0] == 200


def test_only_hashes_are_compared_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    honest = key_module.compare_digest

    def compare(known: bytes, given: bytes) -> bool:
        compared.append((known, given))
        return honest(known, given)

    monkeypatch.setattr(key_module, "compare_digest", compare)
    ring = KeyRing([key("a")])
    found, missed = ring.find(b"a-secret"), ring.find(b"a-secreT")
    assert found is not None
    assert missed is None
    assert len(compared) == 2
    assert all(len(given) == 32 for _, given in compared)


@pytest.mark.parametrize("name", [b"authorization", b"x-request-id", b"content-type", b"content-encoding", b"accept"])
async def test_giant_headers_are_neither_hashed_nor_echoed(
    guarded: Guarded, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []
    find = KeyRing.find
    monkeypatch.setattr(KeyRing, "find", lambda ring, secret: hashed.append(len(secret)) or find(ring, secret))
    giant = (b"Bearer " if name == b"authorization" else b"") + b"z" * 2**20
    sent = [(name, giant), *([] if name == b"authorization" else [GOOD])]
    status, headers, body = await guarded.send(
        "POST", "/v1/embeddings", sent, json.dumps(BODIES["/v1/embeddings"]).encode()
    )
    refusals = {b"authorization": 401, b"content-type": 415, b"content-encoding": 415}
    assert status == refusals.get(name, 200)
    assert max(hashed, default=0) < 300
    assert all(len(value) < 300 for value in headers.values())
    assert b"zzzz" not in body


@pytest.mark.parametrize("number", [10**18, 2**63, 2**64, 10**400, -1, -(2**63) - 1])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/embeddings", "dimensions"),
        ("/v1/embed", "priority"),
        ("/v2/embed", "output_dimension"),
        ("/v2/embed", "priority"),
        ("/embed", "dimensions"),
    ],
)
async def test_no_number_is_taken_that_has_no_bound(guarded: Guarded, path: str, field: str, number: int) -> None:
    status, said = await post(guarded, path, {**BODIES[path], field: number}, GOOD)
    assert status in (400, 422)
    assert f"'{field}' must be " in said
    assert str(number)[:18] not in said.replace(str(2**31 - 1), "") or number == -1
    assert guarded.service.jobs == []


@pytest.mark.parametrize("path", FIELD)
@pytest.mark.parametrize("count", [97, 3000, 100_000])
async def test_no_list_is_taken_that_has_no_bound(guarded: Guarded, path: str, count: int) -> None:
    status, said = await post(guarded, path, {**BODIES[path], FIELD[path]: ["a"] * count}, GOOD)
    assert status in (400, 413, 422)
    assert len(said) < 400
    assert guarded.service.jobs == []


@pytest.mark.parametrize("length", [b"100000000", b"9" * 19, b"9" * 4000])
@pytest.mark.parametrize("path", BODIES)
async def test_no_payload_is_read_that_says_it_is_too_large(path: str, length: bytes) -> None:
    guarded = Guarded(key("a"))
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("it was read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [GOOD, (b"content-length", length)]}
    await guarded.app(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_a_body_in_single_bytes() -> None:
    sent = 0

    async def receive() -> Any:
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": b"a", "more_body": sent < 200_000}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    assert await read_body(Request(scope, receive), 200_000) == b"a" * 200_000
    sent = 0
    with pytest.raises(PayloadTooLargeError):
        await read_body(Request(scope, receive), 100_000)
    assert sent == 100_001


async def test_the_event_loop_runs_while_a_text_is_tokenized() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    task = asyncio.create_task(beat())
    stage = JobTokenizer(tokenizer(), Limits(max_input_tokens=100_000), VOCABULARY)
    await stage.tokenize(EmbedJob("m", texts=["word " * 20_000], prompt="Instruct: find\nQuery:"))
    task.cancel()
    assert beats > 2


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("field", ["api_base", "base_url", "chat_template_kwargs", "trust_remote_code", "callback_url"])
async def test_no_field_steers_the_server(guarded: Guarded, path: str, field: str) -> None:
    status, said = await post(guarded, path, {**BODIES[path], field: "http://127.0.0.1:1/"}, GOOD)
    assert status in (400, 422)
    assert f"'{field}'" in said
    assert "127.0.0.1" not in said
    assert guarded.service.jobs == []


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
async def test_no_image_is_fetched(guarded: Guarded, path: str) -> None:
    body = {"model": MODEL, "input_type": "image", "images": ["http://127.0.0.1:1/"]}
    status, said = await post(guarded, path, body, GOOD)
    assert status == 400
    assert "127.0.0.1" not in said
    assert guarded.service.jobs == []


async def test_special_tokens_typed_as_text_are_computed() -> None:
    library = tokenizer()._tokenizer
    special = [token.content for token in library.get_added_tokens_decoder().values()]
    assert "<|endoftext|>" in special
    app = build_app(DemoService())
    sent: list[Any] = []
    body = json.dumps({"model": DEMO_MODEL_ID, "input": [*special, "".join(special), "<|endoftext|>" * 100]}).encode()

    given: list[bool] = []

    async def receive() -> Any:
        if given:
            await asyncio.Event().wait()  # the client stays
        given.append(True)
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}, receive, send)
    assert sent[0]["status"] == 200
    assert len(json.loads(sent[1]["body"])["data"]) == len(special) + 2


@pytest.mark.parametrize("path", BODIES)
async def test_a_defect_says_nothing_of_the_inside(
    guarded: Guarded, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    said_inside = "<Tensor object at 0x7f3a> in /dev/shm/region_17, text 'private words'"

    def broken() -> None:
        raise RuntimeError(said_inside)  # by its name: the log shows lines of source

    guarded.service.before = broken
    status, said = await post(guarded, path, BODIES[path], GOOD)
    assert status in (424, 500)
    assert not any(word in said for word in ("0x7f3a", "Tensor", "/dev/shm", "private", "RuntimeError", ".py"))
    assert "private" not in caplog.text


@pytest.mark.parametrize("nothing", ["", [], [""], [[]], None, [None], {}])
@pytest.mark.parametrize("path", FIELD)
async def test_nothing_at_all_is_refused(guarded: Guarded, path: str, nothing: Any) -> None:
    status, said = await post(guarded, path, {**BODIES[path], FIELD[path]: nothing}, GOOD)
    assert status in (400, 422)
    assert FIELD[path] in said or "empty string" in said  # the one is in Cohere's own words
    assert guarded.service.jobs == []


@pytest.mark.parametrize("value", [b"' OR 1=1 --", b"a-secret' --", b"a-secret\x00", b"a-secret;", b"a-secre%", b"*"])
async def test_the_authorization_header_is_only_hashed(guarded: Guarded, value: bytes) -> None:
    status, said = await post(guarded, "/embed", BODIES["/embed"], (b"authorization", b"Bearer " + value))
    assert status == 401
    assert value.decode() not in said
    assert [outcome.key for outcome in guarded.outcomes] == [""]


async def test_an_ordinary_key_is_no_admin(guarded: Guarded) -> None:
    admin = [route for route in guarded.app.router.routes if route.access is Access.ADMIN]
    assert admin
    for route in admin:
        status, _, _ = await guarded.send(route.method, route.path, [GOOD])
        assert status == 403
