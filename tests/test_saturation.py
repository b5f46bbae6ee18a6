"""The HTTP surface over a real dispatcher whose replicas are stuck: refusals, health, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from serve_app.api.app import build_app
from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.answers import Answers
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.rules import DispatchRules
from serve_app.cluster.service import EmbeddingService, Timeouts
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.types import ChunkReply, Envelope, Limits, Ping, ReplicaStatus, ServedModel
from tests.reference import VOCABULARY, tokenizer

HIDDEN = 4
CHUNK = 100
GATEWAY_TOKENS = 2_000
BODY = {"model": "m", "input": ["a text of some words"] * 10}
SCOPE = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}


class Stuck:
    """A transport to replicas that answer pings at once and chunks only after `go_on`; keeps what was cancelled."""

    def __init__(self) -> None:
        self.replied_at = -math.inf
        self.go_on = asyncio.Event()
        self.pings = 0
        self.cancelled: list[int] = []

    async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
        await self.go_on.wait()
        n = len(envelope.ids)
        zeros = np.zeros(n, np.float32)
        return ChunkReply(ReplicaStatus(replica), np.ones((n, HIDDEN), np.float32), {}, zeros, zeros)

    async def cancel(self, replica: str, gateway: str, ids: npt.NDArray[np.uint64]) -> None:
        self.cancelled += ids.tolist()

    async def ping(self, replica: str, ping: Ping) -> ReplicaStatus:
        self.pings += 1
        return ReplicaStatus(replica)

    async def wake(self, ping: Ping) -> ReplicaStatus:
        return ReplicaStatus("a")


class Gateway:
    """What a gateway replica consists of, without Ray."""

    def __init__(self) -> None:
        self.transport = Stuck()
        replicas = ReplicaSet(slots_per_class=1)
        replicas.set_replicas(["a", "b"])
        rules = DispatchRules(chunk_tokens=CHUNK)
        self.dispatcher = Dispatcher(replicas, self.transport, gateway="g", hidden_size=HIDDEN, rules=rules)
        self.admission = Admission(Bounds(10.0, GATEWAY_TOKENS, 10**9), CHUNK)
        service = EmbeddingService(
            ServedModel("m", HIDDEN, 512),
            Limits(),
            JobTokenizer(tokenizer(), Limits(), VOCABULARY),
            Answers(self.dispatcher, model="m", hidden_size=HIDDEN, share=False),
            ReplicaHealth(self.transport, replicas, lambda: Ping("g"), fresh=0),
            self.admission,
            Timeouts(300.0, 0.05, 3600.0),
        )
        self.app = build_app(service)

    async def saturate(self, http: httpx.AsyncClient) -> list[asyncio.Task[httpx.Response]]:
        """Send requests until one is refused; those that weren't."""
        waiting: list[asyncio.Task[httpx.Response]] = []
        while len(waiting) < 1000:
            request = asyncio.create_task(http.post("/v1/embeddings", json=BODY))
            for _ in range(20):
                await asyncio.sleep(0)
            if request.done():
                assert (await request).status_code == 429
                return waiting
            waiting.append(request)
        raise AssertionError("nothing is ever refused")


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    yield gateway
    await gateway.dispatcher.close()


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(cast(Any, gateway.app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=None) as client:
        yield client


async def test_overload_is_refused_and_what_was_taken_on_is_answered(gateway: Gateway, http: httpx.AsyncClient) -> None:
    waiting = await gateway.saturate(http)
    assert gateway.dispatcher.queued_tokens >= GATEWAY_TOKENS
    reply = await http.post("/v1/embeddings", json={"model": "m", "input": "one more"})
    assert reply.status_code == 429
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("tokens", None, "server_is_overloaded")
    assert int(reply.headers["retry-after"]) >= 1
    assert int(reply.headers["retry-after-ms"]) > 0
    assert reply.headers["x-should-retry"] == "true"
    gateway.transport.go_on.set()
    assert {reply.status_code for reply in await asyncio.gather(*waiting)} == {200}
    assert (await http.post("/v1/embeddings", json=BODY)).status_code == 200


async def test_health_and_readiness_are_answered_whatever_waits(gateway: Gateway, http: httpx.AsyncClient) -> None:
    waiting = await gateway.saturate(http)
    for path in ("/health", "/ready", "/v1/models", "/version"):
        assert (await http.get(path)).status_code == 200
    assert gateway.transport.pings >= 2
    assert not any(request.done() for request in waiting)
    gateway.transport.go_on.set()
    await asyncio.gather(*waiting)


async def test_a_deadline_takes_back_what_has_not_been_sent(gateway: Gateway, http: httpx.AsyncClient) -> None:
    waiting = await gateway.saturate(http)
    queued = gateway.dispatcher.queued_tokens
    gateway.admission.bounds = Bounds(10.0, 10**9, 10**9)
    late = asyncio.create_task(http.post("/v1/embeddings", json=BODY, headers={"x-request-timeout-seconds": "0.2"}))
    await until(lambda: gateway.dispatcher.queued_tokens > queued or late.done())
    reply = await late
    assert (reply.status_code, reply.json()["error"]["code"]) == (408, "deadline_exceeded")
    assert gateway.dispatcher.queued_tokens == queued
    gateway.transport.go_on.set()
    await asyncio.gather(*waiting)


class Client:
    """A client at the other end of an ASGI connection, which hangs up when told to."""

    def __init__(self) -> None:
        self.hang_up = asyncio.Event()
        self.sent: list[Any] = []
        self._messages = [{"type": "http.request", "body": json.dumps(BODY).encode()}]

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_clients_that_leave_empty_the_queue(gateway: Gateway) -> None:
    clients = [Client() for _ in range(10)]
    running = [asyncio.create_task(gateway.app(dict(SCOPE), client.receive, client.send)) for client in clients]
    await until(lambda: gateway.dispatcher.queued_tokens > CHUNK)
    for client in clients:
        client.hang_up.set()
    await asyncio.gather(*running)
    assert gateway.dispatcher.queued_tokens == 0
    assert [client.sent for client in clients] == [[]] * 10
    # What had been sent is called back from the replicas.
    await until(lambda: len(gateway.transport.cancelled) > 0)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
