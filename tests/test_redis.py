"""Limits and ledger in a real Redis: exact over gateways, and what happens while it's away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from redis import Redis

from serve_app.access import redis_limiter
from serve_app.access.key import Ask
from serve_app.access.limiter import ShareLimiter
from serve_app.access.redis_limiter import RedisLimiter
from serve_app.access.window import Taken
from serve_app.telemetry.ledger import Used
from serve_app.telemetry.ledger_redis import RedisStore
from serve_app.telemetry.ledger_store import Source
from tests.guarded import Guarded, key
from tests.redis_server import RedisServer
from tests.test_app import BODY

GATEWAYS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer.running(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def clean(server: RedisServer) -> Iterator[None]:
    yield
    server.go_on()
    if server.process is None:
        server.start()
    with Redis.from_url(server.url) as redis:
        redis.flushall()


class Gateways:
    """Limiters of several gateways, as in processes of their own; `alone` counts decisions without Redis."""

    def __init__(self, url: str, count: int = GATEWAYS) -> None:
        self.alone = 0
        self.own = [ShareLimiter(count) for _ in range(count)]
        self.all = [RedisLimiter(url, "app", own, self.decided) for own in self.own]

    def decided(self) -> None:
        self.alone += 1

    async def ask(
        self, gateway: int, amount: int = 1, limit: int = 100, name: str = "a", kind: str = "requests"
    ) -> Taken:
        [taken] = await self.all[gateway].take([Ask(name, kind, limit, amount)])
        return taken


@pytest.fixture
async def gateways(server: RedisServer) -> AsyncIterator[Gateways]:
    found = Gateways(server.url)
    yield found
    for limiter in found.all:
        await limiter.close()


async def test_many_clients_over_two_gateways_get_exactly_the_limit(gateways: Gateways) -> None:
    answers = await asyncio.gather(*(gateways.ask(n % GATEWAYS, limit=1000) for n in range(3000)))
    assert sum(taken.wait == 0 for taken in answers) == 1000
    assert gateways.alone == 0


async def test_tokens_of_any_size_never_exceed_the_limit(gateways: Gateways) -> None:
    amounts = [1 + n * 37 % 700 for n in range(400)]
    answers = await asyncio.gather(
        *(gateways.ask(n % GATEWAYS, amount, 50_000, kind="tokens") for n, amount in enumerate(amounts))
    )
    given = sum(amount for amount, taken in zip(amounts, answers, strict=True) if taken.wait == 0)
    assert 50_000 - 700 < given <= 50_000
    assert max(taken.used for taken in answers) == given


async def test_over_http_through_two_gateways(server: RedisServer) -> None:
    limiters = Gateways(server.url).all
    apps = [Guarded(key("a", requests_per_minute=60, tokens_per_minute=120), limiter=limiter) for limiter in limiters]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(app.client("a-secret")) for app in apps]
        replies = await asyncio.gather(*(clients[n % GATEWAYS].post("/v1/embeddings", json=BODY) for n in range(200)))
    served = [reply for reply in replies if reply.status_code == 200]
    assert {reply.status_code for reply in replies} == {200, 429}
    assert len(served) == 40, "120 tokens at 3 each"
    assert sum(len(app.service.jobs) for app in apps) == 40
    assert min(int(reply.headers["x-ratelimit-remaining-tokens"]) for reply in served) == 0
    assert {reply.headers["x-ratelimit-limit-requests"] for reply in replies} == {"60"}
    for limiter in limiters:
        await limiter.close()


async def test_it_says_what_a_window_in_memory_says(gateways: Gateways) -> None:
    asked = [
        ("tokens", 100, 60),
        ("tokens", 100, 0),
        ("tokens", 100, 50),
        ("requests", 5, 1),
        ("tokens", 100, 40),
        ("tokens", 100, 1),
    ]
    now = 1000.0
    memory = ShareLimiter(1, lambda: now)
    for kind, limit, amount in asked:
        said = await gateways.ask(0, amount, limit, kind=kind)
        [expected] = memory.take_now([Ask("a", kind, limit, amount)])
        assert (said.used, said.wait > 0) == (expected.used, expected.wait > 0)
        # Redis's clock isn't at the start of a second.
        assert said.wait == 0 or expected.wait - 2 <= said.wait <= expected.wait
        assert expected.reset - 2 <= said.reset <= expected.reset


async def test_seconds_are_forgotten_after_a_minute(gateways: Gateways, server: RedisServer) -> None:
    with Redis.from_url(server.url) as redis:
        second = int(redis.time()[0])
        name = "{embedserve:app}:used:requests:a"
        redis.hset(name, mapping={str(second - 61): 70, str(second - 58): 25, str(second - 10): 5})  # type: ignore[arg-type]
        taken = await gateways.ask(0, 71)
        assert taken.used == 30
        assert 1 < taken.wait <= 3
        assert (await gateways.ask(1, 70)).wait == 0
        assert str(second - 61).encode() not in redis.hkeys(name)
        assert 0 < redis.ttl(name) <= 62  # type: ignore[operator]


async def test_keys_kinds_and_services_are_apart(gateways: Gateways, server: RedisServer) -> None:
    assert (await gateways.ask(0, 100)).used == 100
    assert (await gateways.ask(0, 100, name="b")).used == 100
    assert (await gateways.ask(0, 100, kind="tokens")).used == 100
    other = RedisLimiter(server.url, "other", ShareLimiter(1))
    assert [taken.used for taken in await other.take([Ask("a", "requests", 100, 7)])] == [7]
    await other.close()


async def test_what_waits_is_asked_in_one_call(gateways: Gateways, server: RedisServer) -> None:
    await gateways.ask(0)
    with Redis.from_url(server.url) as redis:
        before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]  # type: ignore[index]
        await asyncio.gather(*(gateways.ask(0) for _ in range(200)))
        assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before <= 3  # type: ignore[index]


async def until(gateways: Gateways, away: bool) -> None:
    async with asyncio.timeout(10):
        while any(limiter.away is not away for limiter in gateways.all):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["paused", "gone"])
async def test_while_redis_is_away_each_gateway_lets_its_share_through(
    gateways: Gateways, server: RedisServer, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_limiter, "RETRY_SECONDS", 0.05)
    for _ in range(30):
        assert (await gateways.ask(0)).wait == 0
    server.pause() if how == "paused" else server.stop()
    answers = await asyncio.gather(*(gateways.ask(n % GATEWAYS) for n in range(300)))
    given = [sum(taken.wait == 0 for taken in answers[gateway::GATEWAYS]) for gateway in range(GATEWAYS)]
    # The first one has let 30 through already, and remembers.
    assert given == [20, 50]
    assert gateways.alone >= 300
    assert [limiter.most(100) for limiter in gateways.all] == [50, 50]
    assert caplog.text.count("Redis doesn't answer") == GATEWAYS
    assert server.url not in caplog.text
    server.go_on() if how == "paused" else server.start()
    await until(gateways, away=False)
    assert caplog.text.count("Redis answers again") == GATEWAYS
    before = gateways.alone
    # A paused Redis still has what it was asked before it was paused.
    assert (await gateways.ask(0)).used >= (31 if how == "paused" else 1)
    assert gateways.alone == before


async def test_without_redis_no_request_fails() -> None:
    limiter = RedisLimiter("redis://127.0.0.1:1/0", "app", ShareLimiter(GATEWAYS))
    guarded = Guarded(key("a", requests_per_minute=10), limiter=limiter)
    async with guarded.client("a-secret") as http:
        replies: list[httpx.Response] = []
        for _ in range(7):
            replies.append(await http.post("/v1/embeddings", json=BODY))
    assert [reply.status_code for reply in replies] == [200] * 5 + [429] * 2
    assert replies[-1].headers["x-ratelimit-limit-requests"] == "5"
    await limiter.close()


@pytest.mark.parametrize("trouble", [RuntimeError("the handler is closed"), ValueError("odd"), AssertionError()])
async def test_whatever_goes_wrong_with_redis_nobody_waits_for_ever(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """uvloop, for one, raises a RuntimeError on a connection that has just gone."""
    monkeypatch.setattr(redis_limiter, "RETRY_SECONDS", 0.05)

    async def fail(*_: object) -> None:
        raise trouble

    limiter = gateways.all[0]
    monkeypatch.setattr(limiter, "_script", fail)
    monkeypatch.setattr(limiter._redis, "ping", fail)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(gateways.ask(0) for _ in range(60)))
    assert sum(taken.wait == 0 for taken in answers) == 50, "its share"
    await asyncio.sleep(0.2)
    assert limiter.away
    monkeypatch.undo()
    await until(gateways, away=False)


async def test_while_redis_is_away_more_than_a_share_waits_and_is_not_refused_for_good(
    gateways: Gateways, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_limiter, "RETRY_SECONDS", 0.05)
    guarded = Guarded(key("a", tokens_per_minute=40), limiter=gateways.all[0])  # a share is 20, and an input 3
    server.stop()
    async with guarded.client("a-secret") as http:
        body = {**BODY, "input": [str(n) for n in range(8)]}
        await http.get("/v1/models")
        over = await http.post("/v1/embeddings", json=body)
        assert (over.status_code, over.json()["error"]) == (
            429,
            {
                "message": "Rate limit reached for tokens per min: Limit 20, Used 0, Requested 24. Please try again in 60 s.",
                "type": "tokens",
                "param": None,
                "code": "rate_limit_exceeded",
            },
        )
        assert over.headers["retry-after"] == "60"
        server.start()
        await until(gateways, away=False)
        assert (await http.post("/v1/embeddings", json=body)).status_code == 200


async def test_a_caller_that_leaves_disturbs_nobody(gateways: Gateways) -> None:
    leaving = [asyncio.create_task(gateways.ask(0)) for _ in range(5)]
    staying = [asyncio.create_task(gateways.ask(0)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    assert [taken.wait for taken in await asyncio.gather(*staying)] == [0] * 5


# --- the ledger

A = ("a", "m")


def test_the_ledger_in_redis_keeps_the_largest_sums_of_each_source(server: RedisServer) -> None:
    store = RedisStore(server.url, "app")
    assert store.load() == {}
    store.save({"one": Source("/x", {A: Used(2, 3, 10)}), "two": Source("", {("b", "m"): Used(1, 1, 5)})})
    RedisStore(server.url, "app").save({"one": Source("", {A: Used(1, 4, 9)})})
    store.save({})
    assert store.load() == {"one": Source("/x", {A: Used(2, 4, 10)}), "two": Source("", {("b", "m"): Used(1, 1, 5)})}
    assert RedisStore(server.url, "other").load() == {}


async def test_gateways_that_save_at_once_lose_nothing(server: RedisServer) -> None:
    stores = [RedisStore(server.url, "app") for _ in range(4)]

    def save(number: int) -> None:
        for n in range(20):
            stores[number].save({"one": Source("", {("a", str(number)): Used(n, n, n)})})

    await asyncio.gather(*(asyncio.to_thread(save, number) for number in range(4)))
    assert stores[0].load()["one"].rows == {("a", str(number)): Used(19, 19, 19) for number in range(4)}


def test_a_redis_that_is_away_is_an_oserror_without_its_url(tmp_path: Path) -> None:
    store = RedisStore("redis://:hunter2@127.0.0.1:1/0", "app")
    with pytest.raises(OSError, match=r"ConnectionError") as raised:
        store.load()
    assert "hunter2" not in str(raised.value)
    with pytest.raises(OSError, match=r"can't be written"):
        store.save({"one": Source("", {A: Used(1, 1, 1)})})


def test_a_ledger_in_redis_that_is_none_is_an_oserror(server: RedisServer) -> None:
    store = RedisStore(server.url, "app")
    with Redis.from_url(server.url) as redis:
        for odd in ("no json", "[1, 2]", "17"):
            redis.hset("embedserve:app:ledger", "one", odd)
            with pytest.raises(OSError, match=r"can't be read"):
                store.load()
            with pytest.raises(OSError, match=r"can't be written"):
                store.save({"one": Source("", {A: Used(1, 1, 1)})})
        redis.delete("embedserve:app:ledger")
        redis.set("embedserve:app:ledger", "a string")
        with pytest.raises(OSError, match=r"can't be read: ResponseError"):
            store.load()
