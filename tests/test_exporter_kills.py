"""Metrics while what counts and what shows them is killed: the sums of the whole cluster hold all the while.

The law: acknowledged <= counted <= acknowledged + in flight. What a gateway had in flight when it was killed may count twice: it may
have been counted there, and HAProxy sends it to another one. Those are added to what was in flight, once per kill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.running import RunningService

pytestmark = pytest.mark.cluster

CLIENTS = 12
TEXTS = [f"text number {n}, " + "word " * (n * 3) for n in range(CLIENTS)]

REQUESTS = 'embedserve_requests_total{dialect="openai",model="embedserve/demo",status="200"}'
TOKENS = 'embedserve_prompt_tokens_total{dialect="openai",model="embedserve/demo"}'
INPUTS = 'embedserve_inputs_total{dialect="openai",model="embedserve/demo"}'


@dataclass(frozen=True, slots=True)
class Count:
    """Requests, inputs and tokens."""

    requests: int = 0
    inputs: int = 0
    tokens: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.requests + other.requests, self.inputs + other.inputs, self.tokens + other.tokens)

    def __sub__(self, other: Count) -> Count:
        return Count(self.requests - other.requests, self.inputs - other.inputs, self.tokens - other.tokens)

    def __le__(self, other: Count) -> bool:
        return self.requests <= other.requests and self.inputs <= other.inputs and self.tokens <= other.tokens


@dataclass
class Load:
    """Clients in a closed loop that know what each of their requests should add."""

    url: str
    stop: bool = False
    acknowledged: Count = Count()
    in_flight: Count = Count()
    failed: list[str] = field(default_factory=list)

    async def client(self, number: int) -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            body = {"model": "demo", "input": [TEXTS[number]] * (1 + number % 3)}

            async def tokens() -> int:
                reply = await http.post(f"{self.url}/v1/embeddings", json=body)
                return int(reply.json()["usage"]["prompt_tokens"]) if reply.status_code == 200 else 0

            one = Count(1, len(body["input"]), await tokens())
            self.acknowledged += one
            while not self.stop:
                self.in_flight += one
                if await tokens() == one.tokens:
                    self.acknowledged += one
                else:
                    self.failed.append(str(number))
                self.in_flight -= one

    async def goes_on(self, requests: int = 60) -> None:
        wanted = self.acknowledged.requests + requests
        await until(lambda: self.acknowledged.requests >= wanted, f"{requests} more requests answered")


class Metrics:
    """The cluster's metrics, read again and again; counters that fell or vanished are remembered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reads = 0
        self.slowest = 0.0
        self.fallen: list[str] = []
        self.latest: dict[str, float] = {}
        self.kinds: dict[str, str] = {}

    async def read(self) -> dict[str, float]:
        begin = time.monotonic()
        async with httpx.AsyncClient(timeout=20) as http:
            text = await until_answered(lambda: http.get(f"{self.url}/metrics"))
        samples: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                samples[name] = sample.value
                self.kinds[name] = family.type
        grow = [name for name in self.latest if self.kinds[name] in ("counter", "histogram")]
        self.fallen += [
            f"{n}: {self.latest[n]} -> {samples.get(n)}" for n in grow if samples.get(n, -1) < self.latest[n]
        ]
        self.latest = samples
        self.reads += 1
        self.slowest = max(self.slowest, time.monotonic() - begin)
        return samples

    async def counted(self) -> Count:
        samples = await self.read()
        return Count(*(int(samples.get(name, 0)) for name in (REQUESTS, INPUTS, TOKENS)))


async def test_counts_hold_while_everything_that_counts_is_killed(
    service: RunningService, pytestconfig: pytest.Config
) -> None:
    metrics = Metrics(service.url)
    before = await metrics.counted()
    replicas_at_start = of_replicas(metrics.latest)
    load = Load(service.url)
    doubled = Count()
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]

    async def holds() -> None:
        least = load.acknowledged
        counted = await metrics.counted() - before
        most = load.acknowledged + load.in_flight + doubled
        assert least <= counted <= most

    try:
        for kind in ("Embedder", "Gateway", "NodeExporter") * pytestconfig.getoption("--kills"):
            await until(lambda: len(service.replicas("Gateway")) >= 2 <= len(service.replicas("Embedder")), "all run")
            await load.goes_on()
            await holds()
            [victim, *_] = await found(service, kind)
            victim.kill()
            if kind == "Gateway":
                doubled += load.in_flight
            for _ in range(5):
                await holds()
            await load.goes_on()
    finally:
        load.stop = True
        results = await asyncio.gather(*clients, return_exceptions=True)
    assert [result for result in results if result is not None] == []
    assert load.failed == []
    # At rest: nothing is in flight.
    counted = await metrics.counted() - before
    assert load.acknowledged <= counted <= load.acknowledged + doubled
    assert metrics.fallen == []
    assert metrics.slowest < 15, "Prometheus would have given up"
    # The dead are gone from the gauges, and their counts are in the archive and not in files of their own.
    await until_async(lambda: only_living(metrics, service), "gauges of the dead vanish")
    assert not replicas_at_start & of_replicas(metrics.latest)
    service.wait_healthy()


async def test_labels_are_bounded(service: RunningService) -> None:
    """Whatever clients send makes no series of its own, and no family of the cluster names a replica."""
    metrics = Metrics(service.url)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:

        async def nonsense(n: int) -> None:
            await http.post("/v1/embeddings", json={"model": f"model-{n}", "input": "a"})
            await http.post(f"/v1/unknown-{n}", json={})
            await http.get(f"/v1/models/model-{n}")
            await http.request(f"BREW{n}", "/health")
            await http.post(
                "/v1/embeddings", json={"model": "demo", "input": f"text {n}"}, headers={"x-request-id": f"id-{n}"}
            )

        await nonsense(0)
        before = set(await metrics.read())
        for n in range(1, 6):
            await nonsense(n)
        await asyncio.sleep(0.1)
        new = {name for name in set(await metrics.read()) - before if "replica=" not in name}
    assert not new
    assert {name.split("{")[0] for name in metrics.latest if "replica=" in name} == {
        f"embedserve_replica_{name}" for name in ("device_busy_ratio", "load_seconds", "warmup_seconds")
    }, "and no MFU: nobody knows what this CPU could do"
    assert metrics.latest['embedserve_replicas{deployment="Gateway",state="running"}'] == 2


def of_replicas(samples: dict[str, float]) -> set[str]:
    return {name for name in samples if name.startswith("embedserve_replica_load_seconds")}


async def only_living(metrics: Metrics, service: RunningService) -> bool:
    await metrics.read()
    return len(of_replicas(metrics.latest)) == len(service.replicas("Embedder")) == 2


async def found(service: RunningService, kind: str) -> list[psutil.Process]:
    """Processes of a kind, by the title that Ray gives them, once there are any."""
    running: list[psutil.Process] = []

    def look() -> bool:
        if kind == "NodeExporter":
            running[:] = [
                p for p in service.processes() if p.is_running() and "ray::NodeExporter" in " ".join(p.cmdline())
            ]
        else:
            running[:] = service.replicas(kind)
        return bool(running)

    await until(look, f"a {kind} runs")
    return running


async def until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.1)


async def until_async(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.5)


async def until_answered(ask: Callable[[], Awaitable[httpx.Response]]) -> str:
    """A scrape in the moment of a gateway's death may fail; Prometheus comes again too."""
    for _ in range(20):
        try:
            reply = await ask()
            if reply.status_code == 200:
                return reply.text
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError("no metrics")
