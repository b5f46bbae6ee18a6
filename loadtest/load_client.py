"""The load generator: closed-loop connections that always have one request under way, in a process of its own.

It shares the machine with what it measures, so it does little per request: requests are framed before the
clock starts, the parser is httptools (C), the loop uvloop, and only every so many replies are looked into;
of the others the status is checked.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field
from typing import Any

import httptools
import psutil
import uvloop

from loadtest.http_client import Address
from loadtest.workload import Workload, body

# What to have in store; a round ends early if even this isn't enough.
MOST_REQUESTS_PER_SECOND = 6000
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """One round: what to send where. Text numbers count up from `first`; `pids` are watched for their CPU
    seconds."""

    url: str
    model: str
    workload: Workload
    first: int
    connections: int
    warm_seconds: float
    seconds: float
    sample_every: int = 50
    pids: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Round:
    """What came of it. `latencies` (seconds) and `samples` (text number, reply body) are of requests that
    ended within the measured time, `cpu_seconds` and `requests` of the whole round, warm-up included."""

    seconds: float
    latencies: list[float]
    samples: list[tuple[int, bytes]]
    requests: int
    used: int
    errors: list[str]
    cpu_seconds: dict[str, float]


def drive(plan: Plan) -> Round:
    """Run one round."""
    address = Address.of(plan.url)
    most = int((plan.warm_seconds + plan.seconds) * MOST_REQUESTS_PER_SECOND)
    requests = [
        address.frame(body(plan.model, [plan.workload.text(number)])) for number in range(plan.first, plan.first + most)
    ]
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Generator(plan, address, requests).run())
    finally:
        gc.enable()


class _Generator:
    """The requests in store and what became of those sent."""

    def __init__(self, plan: Plan, address: Address, requests: list[bytes]) -> None:
        self.plan = plan
        self.address = address
        self.requests = requests
        self.sent = self.answered = 0
        self.latencies: list[float] = []
        self.samples: list[tuple[int, bytes]] = []
        self.errors: list[str] = []
        self.measure_from = self.stop_at = self.last = 0.0
        self.open = 0
        self.finished = asyncio.Event()

    async def run(self) -> Round:
        before = _cpu_seconds(self.plan.pids)
        own = time.process_time()
        self.measure_from = time.perf_counter() + self.plan.warm_seconds
        self.stop_at = self.measure_from + self.plan.seconds
        loop = asyncio.get_running_loop()
        self.open = self.plan.connections
        for _ in range(self.plan.connections):
            await loop.create_connection(
                lambda: _Connection(self), self.address.host, self.address.port, ssl=self.address.context
            )
        try:
            async with asyncio.timeout(self.plan.warm_seconds + self.plan.seconds + GRACE_SECONDS):
                await self.finished.wait()
        except TimeoutError:
            self.errors.append(f"{self.open} connections still wait {GRACE_SECONDS:g} s after the end")
        used = {"load generator": time.process_time() - own}
        used |= {name: after - before[name] for name, after in _cpu_seconds(self.plan.pids).items()}
        # If the store ran out, the round was over with its last reply.
        end = self.stop_at if self.sent < len(self.requests) else self.last
        return Round(end - self.measure_from, self.latencies, self.samples, self.answered, self.sent, self.errors, used)

    def take(self) -> tuple[int, bytes] | None:
        """The next request and its text's number; None when it's time to stop."""
        if self.sent >= len(self.requests) or time.perf_counter() >= self.stop_at:
            return None
        index = self.sent
        self.sent += 1
        return self.plan.first + index, self.requests[index]

    def closed(self) -> None:
        self.open -= 1
        if self.open == 0:
            self.finished.set()


class _Connection(asyncio.Protocol):
    """One connection: request, reply, request, until the store says stop."""

    def __init__(self, generator: _Generator) -> None:
        self.generator = generator
        self.parser = httptools.HttpResponseParser(self)
        self.chunks: list[bytes] = []
        self.number = 0
        self.sent_at = 0.0
        self.waiting = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.next()

    def next(self) -> None:
        taken = self.generator.take()
        if taken is None:
            self.transport.close()
            return
        self.number, request = taken
        self.waiting = True
        self.sent_at = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        generator = self.generator
        self.waiting = False
        generator.answered += 1
        generator.last = now
        if (status := self.parser.get_status_code()) != 200:
            generator.errors.append(f"status {status}: {b''.join(self.chunks)[:200]!r}")
        if generator.measure_from <= now <= generator.stop_at:
            generator.latencies.append(now - self.sent_at)
            if len(generator.latencies) % generator.plan.sample_every == 1:
                generator.samples.append((self.number, b"".join(self.chunks)))
        self.chunks.clear()
        self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting:
            self.generator.errors.append(f"connection lost under a request: {error!r}")
        self.generator.closed()


def _cpu_seconds(pids: dict[str, list[int]]) -> dict[str, float]:
    total = {}
    for name, group in pids.items():
        total[name] = 0.0
        for pid in group:
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            total[name] += times.user + times.system
    return total
