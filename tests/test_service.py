"""A request's walk through the gateway: admitted or not before it costs anything, and given up at its deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.dispatcher import Dispatcher, Embedded
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.ports import Backlog
from serve_app.cluster.service import EmbeddingService, Timeouts
from serve_app.cluster.ticket import EmbeddedTokens
from serve_app.cluster.tokenize import PART_CHARACTERS, JobTokenizer, estimated_tokens, parts
from serve_app.errors import DeadlineExceededError, OverloadedError, UnavailableError
from serve_app.types import EmbedJob, Limits, Priority, ServedModel, TokenIds, Truncate

TIMEOUTS = Timeouts(default=300.0, shortest=0.05, longest=3600.0)
BOUNDS = Bounds(max_wait_seconds=10.0, max_gateway_tokens=10_000, max_cluster_tokens=100_000)


class FakeTokenizer:
    """One id per character of a text; a large text takes until `release`, in a thread."""

    def __init__(self) -> None:
        self.asked = 0
        self.release = asyncio.Event()

    async def tokenize(self, job: EmbedJob) -> list[TokenIds]:
        self.asked += 1
        texts = job.texts or []
        if sum(map(len, texts)) > 4096:
            await self.release.wait()
        return [np.ones(len(text), np.int32) for text in texts]


class FakeDispatcher:
    def __init__(self) -> None:
        self.waiting = Backlog(replicas=1)
        self.deadlines: list[float] = []
        self.tenants: list[str] = []
        self.priorities: list[Priority] = []

    def backlog(self) -> Backlog:
        return self.waiting

    async def embed(
        self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float, tenant: str = ""
    ) -> Embedded:
        self.deadlines.append(deadline)
        self.tenants.append(tenant)
        n = len(token_ids)
        return Embedded(np.ones((n, 4), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32))

    async def embed_all(self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float) -> EmbeddedTokens:
        self.priorities.append(priority)
        n = len(token_ids)
        vectors = [np.ones((len(ids), 4), np.float32) for ids in token_ids]
        return EmbeddedTokens(vectors, np.zeros(n, np.float32), np.full(n, 0.5, np.float32))


class Walk:
    """A service with fakes around it."""

    def __init__(self) -> None:
        self.tokenizer, self.dispatcher = FakeTokenizer(), FakeDispatcher()
        self.admission = Admission(BOUNDS, chunk_tokens=10, jitter=lambda: 0.0)
        self.service = EmbeddingService(
            ServedModel("m", 4, 8192),
            Limits(),
            cast(JobTokenizer, self.tokenizer),
            cast(Dispatcher, self.dispatcher),
            cast(ReplicaHealth, None),
            self.admission,
            TIMEOUTS,
        )

    async def embed(self, text: str = "hello", **fields: Any) -> int:
        return (await self.service.embed(EmbedJob("m", texts=[text], **fields), "id")).prompt_tokens


LARGE = "x" * 8000  # estimated at 2000 tokens, tokenized to 8000


@pytest.mark.parametrize(("asked", "got"), [(None, 300.0), (2.0, 2.0), (0.001, 0.05), (0.05, 0.05), (1e9, 3600.0)])
async def test_the_deadline_counts_from_arrival_within_the_range(asked: float | None, got: float) -> None:
    walk = Walk()
    arrived = time.monotonic() - 0.02
    await walk.embed(timeout_seconds=asked, arrived_at=arrived)
    assert walk.dispatcher.deadlines == [arrived + got]


async def test_without_an_arrival_it_counts_from_now() -> None:
    walk = Walk()
    before = time.monotonic()
    await walk.embed(timeout_seconds=5.0)
    assert before + 5.0 <= walk.dispatcher.deadlines[0] <= time.monotonic() + 5.0


async def test_a_refused_request_is_not_even_tokenized() -> None:
    walk = Walk()
    walk.dispatcher.waiting = Backlog(10_000, 10_000, 1_000.0, 1)
    with pytest.raises(OverloadedError):
        await walk.embed()
    assert (walk.tokenizer.asked, walk.dispatcher.deadlines) == (0, [])
    walk.dispatcher.waiting = Backlog(9_999, 9_999, 1_000.0, 1)
    assert await walk.embed() == 5


async def test_a_large_request_is_checked_again_once_it_is_tokenized() -> None:
    walk = Walk()
    large = asyncio.create_task(walk.embed(LARGE))
    await asyncio.sleep(0)
    walk.dispatcher.waiting = Backlog(10_000, 10_000, 1_000.0, 1)
    walk.tokenizer.release.set()
    with pytest.raises(OverloadedError):
        await large
    assert walk.dispatcher.deadlines == []


async def test_under_the_bound_a_request_is_taken_on_whole() -> None:
    walk = Walk()
    walk.dispatcher.waiting = Backlog(9_999, 9_999, 1_000.0, 1)
    walk.tokenizer.release.set()
    assert await walk.embed("x" * 500_000) == 500_000


async def test_what_is_being_tokenized_counts_until_it_is_queued_or_given_up() -> None:
    walk = Walk()
    large = [asyncio.create_task(walk.embed(LARGE)) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await walk.embed()
    large[0].cancel()
    await asyncio.sleep(0)
    assert await walk.embed() == 5
    walk.tokenizer.release.set()
    results = await asyncio.gather(*large, return_exceptions=True)
    assert results[1:] == [8000] * 4
    assert walk.service._tokenizing == 0


async def test_tokenizing_ends_at_the_deadline() -> None:
    walk = Walk()
    with pytest.raises(DeadlineExceededError, match="before the request was tokenized"):
        await walk.embed(LARGE, timeout_seconds=0.05)
    assert walk.dispatcher.deadlines == []
    assert walk.service._tokenizing == 0


async def test_a_draining_service_finishes_what_it_has_and_takes_no_more() -> None:
    walk = Walk()
    large = asyncio.create_task(walk.embed(LARGE))
    await asyncio.sleep(0)
    draining = asyncio.create_task(walk.service.drain())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await walk.embed()
    assert await walk.service.ready() == "shutting down"
    assert not draining.done()
    walk.tokenizer.release.set()
    await draining
    assert await large == 8000


# --- tokenizing that can be given up


@pytest.mark.parametrize(
    ("lengths", "runs"),
    [
        ([], [[]]),
        ([1], [[1]]),
        ([4, 4, 4], [[4, 4], [4]]),
        ([9, 1, 8, 10, 1], [[9, 1], [8], [10], [1]]),
        ([20], [[20]]),
    ],
)
def test_parts(lengths: list[int], runs: list[list[int]]) -> None:
    assert [[len(text) for text in part] for part in parts(["x" * n for n in lengths], 10)] == runs


def test_estimates() -> None:
    limits = Limits(max_input_tokens=100, max_request_tokens=150)
    assert estimated_tokens(EmbedJob("m", texts=["x" * 32, "y" * 8]), limits) == 10
    assert estimated_tokens(EmbedJob("m", token_ids=[np.arange(3, dtype=np.int32)] * 2), limits) == 6
    # What will be cut or refused keeps nobody out.
    assert estimated_tokens(EmbedJob("m", texts=["x" * 100_000, "y" * 8]), limits) == 102
    assert estimated_tokens(EmbedJob("m", token_ids=[np.arange(5000, dtype=np.int32)]), limits) == 100
    assert estimated_tokens(EmbedJob("m", texts=["x" * 400] * 9), limits) == 150


async def test_a_thread_does_no_more_than_the_part_it_has_begun() -> None:
    """However slow the machine: the test waits for what happens, and for no time to pass."""
    loop = asyncio.get_running_loop()
    begun, go_on = asyncio.Event(), threading.Event()
    encoded: list[int] = []

    class Slow:
        vocab_size, bound = 0, None

        def encode_to_cut(self, texts: Sequence[str], limit: int, side: Truncate) -> list[TokenIds]:
            encoded.append(len(texts))
            loop.call_soon_threadsafe(begun.set)
            go_on.wait()
            return [np.ones(1, np.int32) for _ in texts]

    loop.set_default_executor(ThreadPoolExecutor(1))
    stage = JobTokenizer(cast(Any, Slow()), Limits(), 1280)
    task = asyncio.create_task(stage.tokenize(EmbedJob("m", texts=["x" * PART_CHARACTERS] * 3)))
    begins = asyncio.create_task(begun.wait())
    try:
        await asyncio.wait([begins, task], return_when=asyncio.FIRST_COMPLETED)
        assert begun.is_set(), task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        begins.cancel()
        go_on.set()
    # The only thread there is comes to this when it has done all that it was given before.
    await asyncio.to_thread(lambda: None)
    assert encoded == [1]
