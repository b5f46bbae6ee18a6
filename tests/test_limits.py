"""What a key may use in a minute and at once: exact, in any 60 seconds, and told in the headers."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx
import openai
import pytest

from serve_app.api.guard import duration
from tests.guarded import Guarded, key
from tests.in_process import MODEL
from tests.test_app import BODY


def limits(reply: httpx.Response, kind: str = "requests") -> tuple[str | None, ...]:
    return tuple(reply.headers.get(f"x-ratelimit-{what}-{kind}") for what in ("limit", "remaining", "reset"))


async def test_requests_per_minute() -> None:
    guarded = Guarded(key("a", requests_per_minute=2), key("b", requests_per_minute=2))
    async with guarded.client("a-secret") as http:
        first = await http.post("/v1/embeddings", json=BODY)
        assert (first.status_code, limits(first)) == (200, ("2", "1", "1m1s"))
        guarded.now += 20
        second = await http.get("/v1/models")
        assert (second.status_code, limits(second)) == (200, ("2", "0", "1m1s"))
        guarded.now += 5.5
        third = await http.post("/v1/embeddings", json=BODY)
        assert (third.status_code, limits(third)) == (429, ("2", "0", "56s"))
        assert third.json()["error"] == {
            "message": "Rate limit reached for requests per min: Limit 2, Used 2, Requested 1. Please try again in 35.5 s.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        assert third.headers["retry-after"] == "36"
        assert third.headers["retry-after-ms"] == "35500"
        assert third.headers["x-should-retry"] == "true"
        assert len(guarded.service.jobs) == 1
        assert guarded.refused == [("a", "requests")]
        guarded.now += 35.5
        assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200
    async with guarded.client("b-secret") as http:
        assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200


async def test_nobody_is_told_to_wait_longer_than_a_minute() -> None:
    guarded = Guarded(key("a", requests_per_minute=1))
    async with guarded.client("a-secret") as http:
        await http.get("/v1/models")
        assert (await http.get("/v1/models")).headers["retry-after"] == "60"


async def test_tokens_per_minute_are_charged_exactly_and_before_any_work() -> None:
    guarded = Guarded(key("a", tokens_per_minute=10))
    async with guarded.client("a-secret") as http:
        look = await http.get("/v1/models")
        assert limits(look, "tokens") == ("10", "10", "0s")
        reply = await http.post("/v1/embeddings", json={**BODY, "input": ["x", "y"]})
        assert limits(reply, "tokens") == ("10", "4", "1m1s")
        assert limits(reply) == (None, None, None)
        refused = await http.post("/v1/embeddings", json={**BODY, "input": ["x", "y"]})
        assert (refused.status_code, limits(refused, "tokens")) == (429, ("10", "4", "1m1s"))
        assert refused.json()["error"] == {
            "message": "Rate limit reached for tokens per min: Limit 10, Used 6, Requested 6. Please try again in 60 s.",
            "type": "tokens",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200, "what fits is still let through"
    assert len(guarded.service.jobs) == 2
    assert guarded.refused == [("a", "tokens")]


async def test_a_request_over_all_of_the_limit_is_told_that_no_wait_helps() -> None:
    guarded = Guarded(key("a", tokens_per_minute=20), gateways=2)
    async with guarded.client("a-secret") as http:
        refused = await http.post("/v1/embeddings", json={**BODY, "input": ["x"] * 4})
        assert refused.status_code == 400
        assert refused.json()["error"] == {
            "message": "Requested 12 tokens, but your API key has 10 a minute here: none may have more. Send less at a time.",
            "type": "max_tokens_per_request",
            "param": "input",
            "code": "max_tokens_per_request",
        }
        assert "retry-after" not in refused.headers
        assert limits(refused, "tokens") == ("10", "10", "0s")


async def test_a_bad_request_costs_a_request_and_no_tokens() -> None:
    guarded = Guarded(key("a", requests_per_minute=5, tokens_per_minute=10))
    async with guarded.client("a-secret") as http:
        reply = await http.post("/v1/embeddings", json={"model": MODEL})
        assert (reply.status_code, limits(reply), limits(reply, "tokens")) == (
            400,
            ("5", "4", "1m1s"),
            ("10", "10", "0s"),
        )


async def test_unlimited_keys_have_no_headers() -> None:
    async with Guarded(key("a")).client("a-secret") as http:
        reply = await http.post("/v1/embeddings", json=BODY)
        assert reply.status_code == 200
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(("gateways", "share"), [(1, 3), (2, 1)])
async def test_requests_at_once(gateways: int, share: int) -> None:
    guarded = Guarded(key("a", max_concurrent=3, requests_per_minute=99), key("b"), gateways=gateways)
    go_on = asyncio.Event()
    guarded.service.before = go_on.wait
    async with guarded.client("a-secret") as http, guarded.client("b-secret") as other:
        running = [asyncio.create_task(http.post("/v1/embeddings", json=BODY)) for _ in range(share)]
        others = asyncio.create_task(other.post("/v1/embeddings", json=BODY))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(guarded.service.jobs) == share + 1
        refused = await http.post("/v1/embeddings", json=BODY)
        assert refused.status_code == 429
        assert refused.json()["error"] == {
            "message": f"Your API key has {share} requests under way, and may have {share} here. Wait for one of them.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        assert refused.headers["retry-after"] == "1"
        assert guarded.refused == [("a", "concurrent")]
        go_on.set()
        assert {reply.status_code for reply in await asyncio.gather(*running, others)} == {200}
        reply = await http.post("/v1/embeddings", json=BODY)
        used = 99 // gateways - int(reply.headers["x-ratelimit-remaining-requests"])
        assert (reply.status_code, used) == (200, share + 1), "the refused one didn't count"


async def test_whatever_ends_a_request_makes_room() -> None:
    guarded = Guarded(key("a", max_concurrent=1))

    async def cancelled() -> None:
        raise asyncio.CancelledError

    def defect() -> None:
        raise RuntimeError

    async with guarded.client("a-secret") as http:
        for path, body, status in (("/v1/embeddings", {}, 400), ("/v1/nothing", BODY, 404), ("/v1/models", BODY, 405)):
            assert (await http.post(path, json=body)).status_code == status
        guarded.service.before = defect
        assert (await http.post("/v1/embeddings", json=BODY)).status_code == 500
        guarded.service.before = cancelled
        with pytest.raises(asyncio.CancelledError):
            await http.post("/v1/embeddings", json=BODY)
        guarded.service.before = lambda: None
        assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200
    assert guarded.gate._entrance.inside == {}


async def test_openais_client_raises_its_rate_limit_error() -> None:
    guarded = Guarded(key("a", requests_per_minute=1))
    async with guarded.client() as http:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="a-secret", http_client=http, max_retries=0)
        raw = await client.embeddings.with_raw_response.create(model=MODEL, input="hello")
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as raised:
            await client.embeddings.create(model=MODEL, input="hello")
        assert (raised.value.code, raised.value.type) == ("rate_limit_exceeded", "requests")


async def test_many_clients_at_once_get_exactly_the_limit() -> None:
    guarded = Guarded(key("a", requests_per_minute=50, tokens_per_minute=90))
    scope: list[Any] = [(b"authorization", b"Bearer a-secret")]
    body = json.dumps(BODY).encode()
    replies = await asyncio.gather(*(guarded.send("POST", "/v1/embeddings", scope, body) for _ in range(200)))
    statuses = [status for status, _, _ in replies]
    assert statuses.count(200) == 30, "90 tokens"
    assert guarded.refused.count(("a", "requests")) == 150
    assert guarded.refused.count(("a", "tokens")) == 20


@pytest.mark.parametrize("to_the_first", [1, 2, 10])
async def test_without_redis_each_of_two_gateways_lets_its_share_through_and_no_more(to_the_first: int) -> None:
    """However unevenly requests are spread; a gateway in the place of another brings one more share with it."""
    gateways = [Guarded(key("a", requests_per_minute=61, tokens_per_minute=250), gateways=2) for _ in range(3)]

    async def served(*numbers: int) -> list[int]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(each.client("a-secret")) for each in gateways]
            replies = await asyncio.gather(*(clients[number].post("/v1/embeddings", json=BODY) for number in numbers))
        assert {reply.status_code for reply in replies} <= {200, 429}
        given = [number for number, reply in zip(numbers, replies, strict=True) if reply.status_code == 200]
        return [given.count(number) for number in range(3)]

    numbers = [0 if n % (to_the_first + 1) else 1 for n in range(220)]
    first, second, _ = await served(*numbers)
    assert (first, second) == (30, min(30, numbers.count(1)))
    assert await served(*[0, 1] * 20) == [0, 30 - second if second < 30 else 0, 0]
    assert await served(*[2] * 40) == [0, 0, 30]
    for each in gateways:
        each.now += 62
    assert await served(*[0, 1] * 40) == [30, 30, 0]


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, b"0s"), (0.2, b"1s"), (59.0, b"59s"), (59.5, b"1m0s"), (61, b"1m1s"), (360, b"6m0s")]
)
def test_durations_are_written_as_openai_does(seconds: float, written: bytes) -> None:
    assert duration(seconds) == written
