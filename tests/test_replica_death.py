"""Replicas killed or paused under load: nobody hangs, nobody gets a wrong vector, nobody notices."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import openai
import psutil
import pytest

from tests.reference import assert_same, expected
from tests.running import RunningService

pytestmark = pytest.mark.cluster
TEXTS = [f"text number {n} of those that are sent while replicas die" for n in range(64)]
CLIENTS = 8
REQUEST_SECONDS = 30.0


class Clients:
    """OpenAI clients without retries that ask on and on, and compare each vector with the known one."""

    def __init__(self, service: RunningService) -> None:
        self.answered = [0] * CLIENTS
        self._service = service
        self._wanted = expected(TEXTS)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Clients:
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [result for result in results if result is not None] == []

    async def get_answers(self, what: str, each: int = 10) -> None:
        """Return once every client has got so many more answers, all of them right."""
        before = [*self.answered]
        await until(lambda: all(now > then + each for now, then in zip(self.answered, before, strict=True)), what)
        assert not [task for task in self._tasks if task.done()]

    async def _ask_on(self, number: int) -> None:
        async with openai.AsyncOpenAI(
            base_url=self._service.base_url, api_key="EMPTY", max_retries=0, timeout=REQUEST_SECONDS
        ) as api:
            n = number
            while not self._stop.is_set():
                rows = [(n + k) % len(TEXTS) for k in range(1 + n % 7)]
                reply = await api.embeddings.create(model="demo", input=[TEXTS[row] for row in rows])
                assert_same(np.array([item.embedding for item in reply.data], np.float32), self._wanted[rows])
                self.answered[number] += 1
                n += CLIENTS


async def test_requests_in_flight_are_answered_through_the_other_replica(
    service: RunningService, pytestconfig: pytest.Config
) -> None:
    async with Clients(service) as clients:
        for _ in range(pytestconfig.getoption("--kills")):
            replicas = await until_replicas(service, 2)
            await clients.get_answers("traffic flows")
            replicas[0].kill()
            replicas[0].wait(10)
            await clients.get_answers("traffic flows through the other replica")
    await until_replicas(service, 2)
    service.wait_healthy()


async def test_a_paused_replica_is_overtaken_and_used_again_when_it_resumes(service: RunningService) -> None:
    async with Clients(service) as clients:
        paused = (await until_replicas(service, 2))[0]
        await clients.get_answers("traffic flows")
        paused.suspend()
        try:
            await clients.get_answers("traffic flows through the other replica", each=25)
            assert paused.status() == psutil.STATUS_STOPPED, "else it was Serve that replaced it"
        finally:
            paused.resume()
        await clients.get_answers("traffic flows", each=25)
    service.wait_healthy()


async def test_a_paused_replica_may_as_well_be_killed(service: RunningService) -> None:
    async with Clients(service) as clients:
        paused = (await until_replicas(service, 2))[0]
        paused.suspend()
        await clients.get_answers("traffic flows through the other replica", each=15)
        paused.kill()
        paused.wait(10)
        await clients.get_answers("traffic flows on", each=15)
    await until_replicas(service, 2)
    service.wait_healthy()


async def until_replicas(service: RunningService, count: int) -> list:
    found: list = []

    def enough() -> bool:
        found[:] = [process for process in service.replicas("Embedder") if process.is_running()]
        return len(found) >= count

    await until(enough, f"{count} Embedder replicas run")
    return found


async def until(condition, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.05)
