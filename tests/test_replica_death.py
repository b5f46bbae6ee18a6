"""Replicas killed under load: nobody hangs, nobody gets a wrong vector, nobody notices."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import openai
import pytest

from tests.reference import assert_same, expected
from tests.running import RunningService

pytestmark = pytest.mark.cluster
TEXTS = [f"text number {n} of those that are sent while replicas die" for n in range(64)]
CLIENTS = 8
REQUEST_SECONDS = 30.0


async def test_requests_in_flight_are_answered_through_the_other_replica(
    service: RunningService, pytestconfig: pytest.Config
) -> None:
    wanted = expected(TEXTS)
    stop = asyncio.Event()
    answered = 0

    async def client(number: int) -> None:
        nonlocal answered
        async with openai.AsyncOpenAI(
            base_url=service.base_url, api_key="EMPTY", max_retries=0, timeout=REQUEST_SECONDS
        ) as api:
            n = number
            while not stop.is_set():
                texts = [TEXTS[(n + k) % len(TEXTS)] for k in range(1 + n % 7)]
                reply = await api.embeddings.create(model="demo", input=texts)
                got = np.array([item.embedding for item in reply.data], np.float32)
                assert_same(got, wanted[[(n + k) % len(TEXTS) for k in range(len(texts))]])
                answered += 1
                n += CLIENTS

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    try:
        for _ in range(pytestconfig.getoption("--kills")):
            replicas = await until_replicas(service, 2)
            before = answered
            await until(lambda before=before: answered > before + 50, "traffic flows")
            replicas[0].kill()
            replicas[0].wait(10)
            at_kill = answered
            await until(lambda at_kill=at_kill: answered > at_kill + 50, "traffic flows through the other replica")
            assert not [task for task in clients if task.done()]
    finally:
        stop.set()
        results = await asyncio.gather(*clients, return_exceptions=True)
    assert [result for result in results if result is not None] == []
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
