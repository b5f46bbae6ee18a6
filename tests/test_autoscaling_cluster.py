"""A real pool of replicas with an emulated device follows its load: up, back, to sleep, and awake again."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest

from loadtest.emulated import vectors_of_texts
from loadtest.running import Running, running
from serve_app.cluster.instance import free_port

TOKENS_PER_SECOND = 1000.0
STARTUP_SECONDS = 1.0
TEXT = "a text of some length, to be embedded by a device that does a thousand tokens a second " * 5

SETTINGS = {
    "device.tokens_per_second": TOKENS_PER_SECOND,
    "device.startup_seconds": STARTUP_SECONDS,
    "batch.max_tokens": 250,
    "dispatch.chunk_tokens": 250,
    "admission.max_wait_seconds": 60,
    "num_cpus": 0.1,
    "autoscaling.max_replicas": 5,
    "autoscaling.min_replicas": 0,
    "autoscaling.downscale_delay_seconds": 2,
    "autoscaling.downscale_to_zero_delay_seconds": 2,
}


@dataclass
class Watch:
    """The number of Embedder processes over time, starting and stopping ones included, and `/health` beside it."""

    service: Running
    counts: list[tuple[float, int]] = field(default_factory=list)
    unhealthy: list[tuple[float, int]] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        over = threading.Event()

        def look() -> None:
            with httpx.Client() as client:
                while not over.wait(0.2):
                    self.counts.append((time.monotonic(), len(self.service.groups().get("embedder", []))))
                    status = client.get(f"{self.service.url}/health", timeout=10).status_code
                    if status != 200:
                        self.unhealthy.append((time.monotonic(), status))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    @property
    def steps(self) -> list[tuple[float, int]]:
        """The changes of the count, with the time of each since the first."""
        first = self.counts[0][0]
        return [(round(next(group)[0] - first, 1), count) for count, group in groupby(self.counts, lambda at: at[1])]

    async def until(self, count: int, seconds: float) -> None:
        """Return once there are so many."""
        deadline = time.monotonic() + seconds
        while not self.counts or self.counts[-1][1] != count:
            assert time.monotonic() < deadline, self.counts and self.steps
            await asyncio.sleep(0.05)


class Load:
    """Requests at a steady rate, whether or not the ones before have been answered. `wrong` collects what wasn't right."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.sent = 0
        self.wrong: list[object] = []
        self._client = client
        self._expected = vectors_of_texts([TEXT])
        self._tasks: list[asyncio.Task[None]] = []

    async def one(self, deadline: float = 60.0) -> None:
        self.sent += 1
        reply = await self._client.post(
            "/v1/embeddings",
            json={"input": [TEXT], "model": "embedserve/demo"},
            headers={"x-request-timeout-seconds": str(deadline)},
        )
        if reply.status_code != 200:
            self.wrong.append(reply.text)
        elif not np.allclose([row["embedding"] for row in reply.json()["data"]], self._expected, atol=1e-6):
            self.wrong.append("another vector")

    async def send(self, per_second: float, while_: Callable[[], bool]) -> None:
        due = time.monotonic()
        while while_():
            self._tasks.append(asyncio.create_task(self.one()))
            due += 1 / per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def answered(self) -> None:
        await asyncio.gather(*self._tasks)


@pytest.mark.cluster
async def test_up_under_load_and_back_and_asleep_and_awake(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "loadtest.emulated_up", "--port", str(port)]
    for name, value in SETTINGS.items():
        command += ["--set", f"{name}={value}"]
    with running(command, port, tmp_path / "up.log") as service, Watch(service).watching() as watch:
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=httpx.Limits()) as client:
            reply = await client.post("/v1/embeddings", json={"input": [TEXT], "model": "embedserve/demo"})
            a_replica = TOKENS_PER_SECOND / reply.json()["usage"]["prompt_tokens"]  # requests per second
            load = Load(client)
            # 2.2 replicas' worth, of which each may have 80 %: 3 replicas.
            enough, over = asyncio.Event(), asyncio.Event()
            much = asyncio.create_task(load.send(2.2 * a_replica, lambda: not enough.is_set()))
            await watch.until(3, 60)
            await asyncio.sleep(2)
            enough.set()
            await much
            # Little: one would do.
            low = asyncio.create_task(load.send(0.2 * a_replica, lambda: not over.is_set()))
            await watch.until(1, 90)
            over.set()
            await low
            await load.answered()
            moves = [b - a for (_, a), (_, b) in pairwise(watch.steps)]
            assert sum(a * b < 0 for a, b in pairwise(moves)) == 1, watch.steps
            # Nothing: none.
            await watch.until(0, 60)
            await asyncio.sleep(2)
            assert watch.counts[-1][1] == 0, "asking for its health doesn't wake the pool"
            began = time.monotonic()
            await load.one(deadline=30)
            assert time.monotonic() - began >= STARTUP_SECONDS, "answered by a replica that had started before"
            await watch.until(1, 30)
    assert load.wrong == []
    assert watch.unhealthy == []
