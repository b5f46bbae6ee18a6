"""Gateways killed with requests in flight: HAProxy sends these to another one, and their clients notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import openai
import psutil
import pytest

from serve_app.cluster.environment import SLOW_CLIENTS, Ports, run_directory
from serve_app.types import Vectors
from tests.reference import assert_same, expected
from tests.running import RunningService

pytestmark = pytest.mark.cluster
TEXTS = [f"text number {n} of those that are sent while gateways die, {'word ' * (n % 50)}" for n in range(64)]
CLIENTS = 16
PORTS = Ports()
REQUEST_SECONDS = 60.0

# From HAProxy; its health checks are one at a time.
BUSY_CONNECTIONS = 3


@dataclass
class Load:
    """Clients in a closed loop, each request's vectors checked; `failed` counts what they saw instead."""

    service: RunningService
    max_retries: int
    wanted: Vectors
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    stop: bool = False

    async def client(self, number: int) -> None:
        async with openai.AsyncOpenAI(
            base_url=self.service.base_url, api_key="EMPTY", max_retries=self.max_retries, timeout=REQUEST_SECONDS
        ) as api:
            n = number
            while not self.stop:
                rows = [(n + k) % len(TEXTS) for k in range(1 + n % 7)]
                try:
                    reply = await api.embeddings.create(model="demo", input=[TEXTS[row] for row in rows])
                except openai.APIError as error:
                    self.failed[repr(error)] += 1
                else:
                    assert_same(np.array([item.embedding for item in reply.data], np.float32), self.wanted[rows])
                    self.answered += 1
                n += CLIENTS


@pytest.mark.parametrize(("max_retries", "share"), [(0, 0.999), (openai.DEFAULT_MAX_RETRIES, 1.0)])
async def test_requests_in_flight_are_answered_by_another_gateway(
    service: RunningService, pytestconfig: pytest.Config, max_retries: int, share: float
) -> None:
    load = Load(service, max_retries, expected(TEXTS))
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    killed_at_work = 0
    try:
        for _ in range(pytestconfig.getoption("--kills")):
            gateways = await until_serving(service, 2)
            before = load.answered
            await until(lambda before=before: load.answered > before + 5 * CLIENTS, "traffic flows")
            # Connections from HAProxy mean requests in flight, since the clients never rest.
            busiest = max(gateways, key=connections)
            killed_at_work += connections(busiest) >= BUSY_CONNECTIONS
            busiest.kill()
            busiest.wait(10)
            after = load.answered
            await until(lambda after=after: load.answered > after + 5 * CLIENTS, "traffic flows through the other")
        await until_serving(service, 2)
    finally:
        load.stop = True
        results = await asyncio.gather(*clients, return_exceptions=True)
    assert [result for result in results if result is not None] == []
    assert killed_at_work == pytestconfig.getoption("--kills")
    sent = load.answered + load.failed.total()
    print(f"{sent} requests with {max_retries} retries, {killed_at_work} kills, failed: {dict(load.failed)}")
    # Among fewer than a thousand none may fail.
    assert load.failed.total() <= (1 - share) * sent, load.failed
    service.wait_healthy()


def test_haproxy_has_what_it_takes(service: RunningService) -> None:
    """Serve's template has no place for the body to be awaited; the line comes with another one."""
    (config,) = (run_directory(service.port) / "haproxy").glob("*/haproxy.cfg")  # in a folder named after the node
    lines = config.read_text().splitlines()
    defaults = lines[lines.index("defaults") : next(n for n, line in enumerate(lines) if line.startswith("frontend"))]
    assert {"option http-buffer-request", SLOW_CLIENTS, "retry-on conn-failure empty-response junk-response"} <= {
        line.strip() for line in defaults
    }
    assert "    tune.bufsize 131072" in lines
    servers = [line for line in lines if line.strip().startswith("server ") and "Gateway" in line]
    assert servers
    assert all(line.endswith("error-limit 1 on-error mark-down") for line in servers)


def connections(process: psutil.Process) -> int:
    """How many connections a gateway has taken on its HTTP port."""
    try:
        sockets = process.net_connections("tcp")
    except psutil.Error:
        return 0
    found = [socket.laddr.port for socket in sockets if socket.status == psutil.CONN_ESTABLISHED]
    return sum(PORTS.gateway_first <= port <= PORTS.gateway_last for port in found)


async def until_serving(service: RunningService, count: int) -> list[psutil.Process]:
    """Gateways that HAProxy knows and sends requests to."""
    found: list[psutil.Process] = []

    def enough() -> bool:
        found[:] = [process for process in service.replicas("Gateway") if connections(process) >= BUSY_CONNECTIONS]
        return len(found) >= count

    await until(enough, f"{count} gateways serve")
    return found


async def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.5)  # finding the processes takes a tenth of that, in which no client runs
