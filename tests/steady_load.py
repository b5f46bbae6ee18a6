"""Steady load on a running service: real OpenAI clients that never try again, every vector checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import openai

from tests.reference import assert_same, expected

TEXTS = [f"text number {n} of those that are sent all the while" for n in range(64)]
REQUEST_SECONDS = 60.0


@dataclass
class SteadyLoad:
    """What has come of it so far. `slowest` is the longest that a request took, in seconds."""

    answered: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)

    async def goes_on(self, requests: int = 50) -> None:
        """Return once so many more were answered."""
        wanted = self.answered + requests
        await until(lambda: self.answered >= wanted or bool(self.failures), f"{requests} more requests answered")
        assert self.failures == []


@asynccontextmanager
async def steady_load(base_url: str, clients: int = 6) -> AsyncIterator[SteadyLoad]:
    """Clients that send until the block ends; it fails if any request did."""
    load = SteadyLoad()
    stop = asyncio.Event()
    vectors = expected(TEXTS)

    async def client(number: int) -> None:
        async with openai.AsyncOpenAI(
            base_url=base_url, api_key="EMPTY", max_retries=0, timeout=REQUEST_SECONDS
        ) as api:
            n = number
            while not stop.is_set():
                rows = [(n + k) % len(TEXTS) for k in range(1 + n % 7)]
                begin = time.monotonic()
                try:
                    reply = await api.embeddings.create(model="demo", input=[TEXTS[row] for row in rows])
                    assert_same(np.array([item.embedding for item in reply.data], np.float32), vectors[rows])
                    load.answered += 1
                except Exception as error:
                    load.failures.append(f"{type(error).__name__}: {error}")
                load.slowest = max(load.slowest, time.monotonic() - begin)
                n += clients

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    try:
        yield load
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert load.failures == []


async def until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """Return once `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.05)
