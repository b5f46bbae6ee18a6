"""`/health` stays quick beside the largest request there is, and tells the truth."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx
import pytest

from tests.running import RunningService

pytestmark = pytest.mark.cluster

# The promise is 50 ms at the median. On a machine that is itself overloaded even an idle service can take that long to
# answer, so there the measure is the idle service in the same run.
PROMISE_SECONDS = 0.050
TIMES_IDLE = 10


async def health_seconds(client: httpx.AsyncClient) -> float:
    started = time.perf_counter()
    reply = await client.get("/health")
    assert reply.json() == {"status": "healthy"}
    return time.perf_counter() - started


async def test_health_beside_a_300k_token_request(service: RunningService) -> None:
    texts = ["word " * 132 + f"number {n}" for n in range(2048)]
    async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:

        async def large() -> httpx.Response:
            return await client.post("/v1/embeddings", json={"model": "demo", "input": texts})

        idle = statistics.median([await health_seconds(client) for _ in range(50)])
        request = asyncio.create_task(large())
        seconds: list[float] = []
        while not request.done():
            seconds.append(await health_seconds(client))
            await asyncio.sleep(0.01)
        answer = await request
    assert answer.status_code == 200
    usage = answer.json()["usage"]
    assert 250_000 < usage["prompt_tokens"] <= 300_000
    assert len(seconds) > 5
    assert statistics.median(seconds) < max(PROMISE_SECONDS, TIMES_IDLE * idle), (idle, sorted(seconds))
