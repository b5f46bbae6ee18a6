"""API keys, limits and the ledger in a running service: two gateways, a Redis that goes and comes back, a gateway that is killed."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest

from serve_app.telemetry.ledger import Used, summed
from serve_app.telemetry.ledger_redis import RedisStore
from tests.keyed_service import MODEL, KeyedService, until
from tests.paying import Payer, add

pytestmark = pytest.mark.cluster

LIMIT = 100
TOKENS = 4000
SLACK = 1.01
"""By how much a limit over several gateways may be exceeded, with Redis."""

KEYS: dict[str, dict[str, Any]] = {
    "admin": {"admin": True},
    "free": {},
    "requests": {"requests_per_minute": LIMIT},
    "tokens": {"tokens_per_minute": TOKENS},
    "crowd": {"max_concurrent": 4},
    "bulk": {"priority": "bulk"},
    "elsewhere": {"models": ["another-model"]},
    "revoked": {},
    "watch": {"requests_per_minute": 1_000_000},
    "begun": {"requests_per_minute": LIMIT},
    "alone": {"requests_per_minute": LIMIT},
    "one": {},
    "two": {},
}
BODY = {"model": MODEL, "input": "hello"}
LARGE = {"model": MODEL, "input": [f"number {n} of many" for n in range(1500)], "encoding_format": "base64"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    with KeyedService.running(tmp_path_factory.mktemp("keyed"), dict(KEYS)) as running:
        yield running


async def spread(keyed: KeyedService, name: str, bodies: Sequence[dict[str, Any]]) -> list[list[httpx.Response]]:
    """The answers of each gateway to these requests, sent all at once, to one gateway after the other."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(keyed.client(name, url)) for url in keyed.urls]
        assert len(clients) == 2
        answers = await asyncio.gather(
            *(clients[n % 2].post("/v1/embeddings", json=body) for n, body in enumerate(bodies))
        )
    return [answers[0::2], answers[1::2]]


def served(answers: Sequence[httpx.Response]) -> list[httpx.Response]:
    assert {answer.status_code for answer in answers} <= {200, 429}
    return [answer for answer in answers if answer.status_code == 200]


async def test_requests_over_two_gateways_keep_to_the_limit(keyed: KeyedService) -> None:
    """OpenAI's own client, many at once, through HAProxy and to the gateways themselves."""
    outcomes: Counter[str] = Counter()
    begin = time.monotonic()

    async def client(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="requests-secret", max_retries=0) as api:
            for _ in range(10):
                try:
                    await api.embeddings.create(model=MODEL, input="hello")
                    outcomes["served"] += 1
                except openai.RateLimitError as error:
                    assert (error.type, error.code) == ("requests", "rate_limit_exceeded")
                    assert int(error.response.headers["retry-after"]) > 0
                    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
                    assert error.response.headers["x-ratelimit-limit-requests"] == str(LIMIT)
                    outcomes["refused"] += 1

    await asyncio.gather(*(client(url) for url in (keyed.service.url, *keyed.urls) for _ in range(10)))
    minutes = 1 + (time.monotonic() - begin) // 60
    assert outcomes.total() == 300
    assert LIMIT <= outcomes["served"] <= SLACK * LIMIT * minutes
    assert (await keyed.used())["requests"].requests == outcomes["served"]
    refusals = await keyed.total("embedserve_key_refusals_total", key="requests", limit="requests")
    assert refusals == outcomes["refused"]
    assert await keyed.total("embedserve_limits_without_redis_total") == 0


async def test_tokens_over_two_gateways_keep_to_the_limit(keyed: KeyedService) -> None:
    begin = time.monotonic()
    bodies = [{**BODY, "input": ["some words of a text " * (1 + n % 9)] * (1 + n % 4)} for n in range(1, 200)]
    # One each first: of a crowd, a gateway that is slow to start may get nothing any more.
    begun = await spread(keyed, "tokens", bodies[:2])
    answers = [one + rest for one, rest in zip(begun, await spread(keyed, "tokens", bodies[2:]), strict=True)]
    used = [[answer.json()["usage"]["prompt_tokens"] for answer in served(each)] for each in answers]
    minutes = 1 + (time.monotonic() - begin) // 60
    assert all(used), "both gateways had some"
    largest = max(map(max, used))
    assert TOKENS - largest < sum(map(sum, used)) <= SLACK * TOKENS * minutes
    assert (await keyed.used())["tokens"].prompt_tokens == sum(map(sum, used))
    for answer in served(answers[0]):
        assert answer.headers["x-ratelimit-limit-tokens"] == str(TOKENS)
        assert 0 <= int(answer.headers["x-ratelimit-remaining-tokens"]) < TOKENS
    async with keyed.client("tokens") as http:
        too_much = await http.post("/v1/embeddings", json={**BODY, "input": ["many words " * 400] * 9})
    assert too_much.status_code == 400
    assert f"your API key has {TOKENS} a minute" in too_much.json()["error"]["message"]


async def test_concurrent_requests_are_shared_out_and_bulk_yields(keyed: KeyedService) -> None:
    [embedder] = keyed.service.replicas("Embedder")
    async with AsyncExitStack() as stack:
        url = keyed.urls[0]
        bulk, free = [await stack.enter_async_context(keyed.client(name, url)) for name in ("bulk", "free")]
        embedder.suspend()  # so that what is under way stays so
        try:
            crowd = asyncio.create_task(spread(keyed, "crowd", [BODY] * 20))
            large = [
                asyncio.create_task(bulk.post("/v1/embeddings", json={**LARGE, "priority": "interactive"}))
                for _ in range(2)
            ]
            await until(lambda: in_flight(keyed, 4 + 2), "all that may be are under way")
            small = asyncio.create_task(free.post("/v1/embeddings", json=BODY))
            await until(lambda: in_flight(keyed, 4 + 2 + 1), "one more is")
        finally:
            embedder.resume()
        assert (await small).status_code == 200
        assert not any(task.done() for task in large), "they came first, and are bulk"
        assert [(await task).status_code for task in large] == [200, 200]
        for answers in await crowd:
            assert len(served(answers)) == 2
            refused = next(answer for answer in answers if answer.status_code == 429)
            assert refused.json()["error"]["message"].startswith(
                "Your API key has 2 requests under way, and may have 2"
            )
    assert len(served((await spread(keyed, "crowd", [BODY] * 2))[0])) == 1, "there is room again"


async def in_flight(keyed: KeyedService, requests: int) -> bool:
    return await keyed.total("embedserve_in_flight_requests") == requests


async def test_models_that_a_key_may_use(keyed: KeyedService) -> None:
    async with keyed.client("elsewhere") as http:
        assert (await http.get("/v1/models")).json()["data"] == []
        forbidden = await http.post("/v1/embeddings", json=BODY)
        unknown = await http.post("/v1/embeddings", json={**BODY, "model": "another-model"})
    assert (forbidden.status_code, unknown.status_code) == (403, 404)
    assert forbidden.json()["error"]["message"] == f"Your API key may not use the model '{MODEL}'."


async def test_no_route_and_no_port_is_open_without_a_key(keyed: KeyedService) -> None:
    async with keyed.client("admin") as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    assert {"/v1/embeddings", "/v2/embed", "/embed", "/metrics", "/v1/usage", "/health"} <= paths.keys()
    secrets = [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic admin-secret"}]
    secrets += [{"x-api-key": "admin-secret"}, {"api-key": "admin-secret"}, {"cookie": "api_key=admin-secret"}]
    # Where no gateway answers, HAProxy sends to Serve's own proxy; it listens on all interfaces, too.
    own_proxy = [f"http://127.0.0.1:{port}" for port, name in keyed.listening().items() if "ProxyActor" in name]
    fallback = [url for url in own_proxy if speaks_http(url)]
    assert len(fallback) == 1
    assert "http://127.0.0.1:8500" not in fallback, "another instance on this machine may have that"
    for url in (keyed.service.url, *keyed.urls, *fallback):
        async with keyed.client(None, url) as http:
            for path, methods in paths.items():
                for method in methods:
                    status = (await http.request(method, path, json={**BODY, "api_key": "admin-secret"})).status_code
                    assert status == (200 if path in ("/health", "/ready") else 401), f"{method} {url}{path}"
            for headers in secrets:
                reply = await http.post("/v1/embeddings?api_key=admin-secret", json=BODY, headers=headers)
                assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), headers
    # HAProxy's own ports pass nothing on.
    ports = {
        connection.laddr.port
        for process in keyed.service.processes()
        if "haproxy" in process.name()
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN"
    } - {keyed.service.port}
    assert ports
    for port in ports:
        async with keyed.client("admin", f"http://127.0.0.1:{port}") as http:
            for reply in (await http.post("/v1/embeddings", json=BODY), await http.get("/metrics")):
                assert "embedding" not in reply.text
                assert "embedserve_key" not in reply.text


def speaks_http(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=10)
    except httpx.HTTPError:
        return False
    return True


def asked_to_run(keyed: KeyedService) -> list[tuple[int, int]]:
    """What the processes that speak HTTP answer who asks them for a job, each with its port."""
    answers = []
    for port in keyed.listening():
        try:
            reply = httpx.post(f"http://127.0.0.1:{port}/api/job_agent/jobs/", json={"entrypoint": "true"}, timeout=10)
        except httpx.HTTPError:
            continue
        answers.append((port, reply.status_code))
    return answers


def agents_port(keyed: KeyedService) -> int:
    """Where the node's agent takes jobs, as Ray keeps it in the session's folder: -1 if another cluster on this machine has that port,
    which is the same for all, and 0 before it's known."""
    for process in keyed.service.processes():
        if process.name() == "raylet":
            [folder] = [part.partition("=")[2] for part in process.cmdline() if part.startswith("--session_dir=")]
            for file in Path(folder).glob("dashboard_agent_listen_port_*"):
                return int(file.read_text() or 0)
    return 0


async def test_ray_s_own_ports_run_nobody_s_programs(keyed: KeyedService) -> None:
    """The job API of each node's agent, and the calls between replicas, which are pickles: with Ray's token or not at all."""

    async def known() -> bool:
        return agents_port(keyed) != 0

    await until(known, "the agent has said where it listens")
    answers = asked_to_run(keyed)
    assert len(answers) >= 4, "HAProxy, gateways, the agent"
    assert [answer for answer in answers if answer[1] < 400] == [], "these run jobs"
    agent = agents_port(keyed)
    assert agent == -1 or (agent, 401) in answers
    calls = 0
    for port, name in keyed.listening().items():
        if "ServeReplica" not in name:
            continue
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\x0a\x03abc", timeout=10)
        assert caught.value.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.UNIMPLEMENTED,
        ), name
        calls += caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert calls >= 3, "each replica's server of calls"


async def test_keys_come_and_go_without_a_restart(keyed: KeyedService) -> None:
    async def statuses(name: str) -> set[int]:
        return {answer.status_code for each in await spread(keyed, name, [BODY] * 2) for answer in each}

    assert (await statuses("revoked"), await statuses("new")) == ({200}, {401})
    gateways = {process.pid for process in keyed.service.replicas("Gateway")}
    keyed.rewrite(revoked=None, new={"requests_per_minute": 5})

    async def taken_over() -> bool:
        return (await statuses("revoked"), await statuses("new")) == ({401}, {200})

    await until(taken_over, "both gateways know the new file", 20)
    assert {process.pid for process in keyed.service.replicas("Gateway")} == gateways
    assert "revoked-secret" not in keyed.service.log.read_text()


async def test_while_redis_is_away_each_gateway_lets_its_share_through(keyed: KeyedService) -> None:
    first, _ = keyed.urls
    async with keyed.client("begun", first) as http:
        for _ in range(LIMIT * 6 // 10):
            assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200
    keyed.redis.stop()
    try:
        begin = time.monotonic()
        for name, shares in (("alone", [50, 50]), ("begun", [0, 50])):
            answers = await spread(keyed, name, [BODY] * 2 * LIMIT)
            assert time.monotonic() - begin < 60, "or there is a second share for each"
            # The first gateway has let 60 of `begun` through already, and remembers.
            assert [len(served(each)) for each in answers] == shares
        assert answers[0][-1].headers["x-ratelimit-limit-requests"] == "50"
        assert await keyed.total("embedserve_limits_without_redis_total") >= 4 * LIMIT
        # The ledger is in Redis too: what was counted is told all the same.
        assert (await keyed.used())["begun"].requests == 110
        assert await keyed.total("embedserve_ledger_failures_total") > 0
    finally:
        keyed.redis.start()

    async def back() -> bool:
        answers = await spread(keyed, "watch", [BODY] * 2)
        return {answer.headers["x-ratelimit-limit-requests"] for each in answers for answer in each} == {"1000000"}

    await until(back, "both gateways count in Redis again")
    store = RedisStore(keyed.redis.url, "embedserve")

    async def stored() -> bool:
        rows = summed(source.rows for source in store.load().values())
        return rows.get(("begun", MODEL)) == (await keyed.used())["begun"]

    await until(stored, "the ledger is in Redis again, all of it", 30)


async def test_a_killed_gateway_loses_and_invents_no_usage(keyed: KeyedService) -> None:
    """acknowledged <= billed <= acknowledged + indeterminate, for each key, also once the service has stopped."""
    payers = [Payer(name) for name in ("one", "two") * 6]
    stop = asyncio.Event()
    tasks = [asyncio.create_task(payer.pay(keyed, stop)) for payer in payers]

    async def paid(requests: int) -> bool:
        return all(payer.acknowledged.requests >= requests for payer in payers)

    try:
        await until(lambda: paid(10), "requests are answered")
        victim = keyed.service.replicas("Gateway")[0]
        victim.kill()
        for payer in payers:  # it may have counted them, and HAProxy sends them to the other one
            payer.doubtful = add(payer.doubtful, payer.under_way)
        most = max(payer.acknowledged.requests for payer in payers)
        await until(lambda: paid(int(most) + 10), "requests are answered by the other")
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert sum(len(payer.failures) for payer in payers) <= len(payers), "all in flight, at most"

    def holds(billed: dict[str, Used]) -> None:
        for name in ("one", "two"):
            own = [payer for payer in payers if payer.name == name]
            least = add(*(payer.acknowledged for payer in own))
            doubtful = add(*(payer.doubtful for payer in own))
            assert doubtful.requests <= 2 * len(own)
            for low, count, unsure in zip(least, billed[name], doubtful, strict=True):
                assert low <= count <= low + unsure

    billed = await keyed.used()
    holds(billed)
    assert keyed.service.stop(signal.SIGTERM) == 0
    rows = summed(source.rows for source in RedisStore(keyed.redis.url, "embedserve").load().values())
    assert {key: used for (key, _), used in rows.items()} == billed
