"""The batcher over an engine that launches batches and waits for them apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import pytest
import torch

from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.memory import HalvingEncoder
from serve_app.engine.pipeline import Pipeline
from serve_app.errors import EngineDeadError, EngineError, InputOverMemoryError, NonFiniteError
from serve_app.types import TokenIds

HIDDEN = 2


def tokens(n: int, mark: int) -> TokenIds:
    return np.full(n, mark, np.int32)


class Device:
    """Launching is at once; a batch is done once it is told so. Time is what the test says."""

    def __init__(self, holds: int = 1000) -> None:
        self.now = 100.0
        self.holds = holds
        self.launched: SimpleQueue[list[int]] = SimpleQueue()
        self.done: SimpleQueue[Exception | None] = SimpleQueue()
        self.threads: set[int] = set()

    def launch(self, batch: list[TokenIds]) -> Callable[[], EncodedBatch]:
        self.threads.add(threading.get_ident())
        if sum(map(len, batch)) > self.holds:
            raise torch.OutOfMemoryError
        marks = [int(ids[0]) for ids in batch]
        self.launched.put(marks)
        if marks[0] < 0:
            raise RuntimeError("launch failed")

        def collect() -> EncodedBatch:
            self.threads.add(threading.get_ident())
            if error := self.done.get(timeout=10):
                raise error
            failed = {row: NonFiniteError("nan") for row, mark in enumerate(marks) if mark == 77}
            return EncodedBatch(np.array([[mark, 1] for mark in marks], np.float32), failed)

        return collect

    async def next_launched(self) -> list[int]:
        return await asyncio.to_thread(self.launched.get, timeout=10)

    def batcher(self, run: object = None, depth: int = 2) -> Batcher:
        options = {"hidden_size": HIDDEN, "max_batch_tokens": 20, "max_batch_inputs": 8, "depth": depth}
        return Batcher(run or self.launch, clock=lambda: self.now, **options)  # type: ignore[arg-type]


async def test_a_full_batch_is_launched_while_another_runs_and_time_counts_once() -> None:
    batcher = (device := Device()).batcher()
    futures = [batcher.submit([tokens(10, mark), tokens(10, mark)]) for mark in (1, 2, 3)]
    assert await device.next_launched() == [1, 1]
    assert await device.next_launched() == [2, 2]  # nobody has collected the first
    assert device.launched.empty()  # two at most
    device.now = 103.0
    assert batcher.busy_seconds == 3.0
    device.done.put(None)
    first = await futures[0]
    assert await device.next_launched() == [3, 3]
    device.now = 104.0
    assert batcher.busy_seconds == 4.0
    device.done.put(None)
    second = await futures[1]
    device.now = 106.0
    device.done.put(None)
    third = await futures[2]
    assert [each.vectors[0, 0] for each in (first, second, third)] == [1, 2, 3]
    assert [each.inference_seconds[0] for each in (first, second, third)] == [3, 1, 2]
    assert [each.queue_seconds[0] for each in (first, second, third)] == [0, 3, 4]
    assert batcher.busy_seconds == 6.0
    assert batcher.tokens_per_second == pytest.approx(10, rel=0.1)
    await batcher.close()
    assert len(device.threads) == 2


async def test_too_little_for_a_batch_waits_for_more() -> None:
    batcher = (device := Device()).batcher()
    first = batcher.submit([tokens(10, 1)])
    await device.next_launched()
    few = [batcher.submit([tokens(1, mark)]) for mark in (2, 3)]
    await asyncio.sleep(0.05)
    assert device.launched.empty()
    device.done.put(None)
    assert await device.next_launched() == [2, 3]
    device.done.put(None)
    await asyncio.gather(first, *few)
    await batcher.close()


async def test_each_batch_fails_for_itself_and_closing_drains() -> None:
    batcher = (device := Device()).batcher()
    futures = [batcher.submit([tokens(20, mark)]) for mark in (1, -1, 2, 77, 3)]
    for outcome in (None, RuntimeError("a kernel failed"), None, None):
        device.done.put(outcome)
    await asyncio.wait_for(batcher.close(), 10)
    answers = [future.result() for future in futures]
    assert [type(answer.errors.get(0)) for answer in answers] == [
        type(None),
        EngineError,
        EngineError,
        NonFiniteError,
        type(None),
    ]
    assert [answers[i].vectors[0, 0] for i in (0, 4)] == [1, 3]
    assert batcher.outstanding_tokens == 0


@pytest.mark.parametrize("where", ["launch", "collect"])
async def test_a_dead_engine_fails_all_that_is_under_way(where: str) -> None:
    device = Device()

    def launch(batch: list[TokenIds]) -> Callable[[], EncodedBatch]:
        if where == "launch" and batch[0][0] == 2:
            raise EngineDeadError("gone")
        return device.launch(batch)

    batcher = device.batcher(launch)
    futures = [batcher.submit([tokens(20, mark)]) for mark in (1, 2, 3)]
    await device.next_launched()
    if where == "collect":
        device.done.put(EngineDeadError("gone"))
    answers = await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert [type(answer.errors[0]) for answer in answers] == [EngineDeadError] * 3
    assert not batcher.healthy
    device.done.put(None)  # lets the other thread end
    device.done.put(None)
    await asyncio.wait_for(batcher.close(), 10)


async def test_a_batch_over_memory_is_launched_in_parts() -> None:
    device = Device(holds=8)
    lowered: list[int] = []
    encoder = HalvingEncoder(device.launch, hidden_size=HIDDEN, lower=lowered.append)
    batcher = device.batcher(encoder)
    for _ in range(3):
        device.done.put(None)
    answer = await batcher.submit([tokens(5, 1), tokens(3, 2), tokens(9, 3), tokens(2, 4)])
    assert answer.vectors[:, 0].tolist() == [1, 2, 0, 4]
    assert isinstance(answer.errors[2], InputOverMemoryError)
    assert lowered[0] == 9
    await batcher.close()


def test_jobs_of_one_thread_come_one_after_the_other() -> None:
    seen: list[str] = []

    def job(name: str) -> Callable[[], None]:
        seen.append(f"launch {name}")
        return lambda: seen.append(f"collect {name}")

    pipeline = Pipeline(died=lambda error: None, overlapping=False)
    pipeline.run(lambda: job("a"))
    pipeline.run(lambda: job("b"))
    pipeline.join()
    assert seen == ["launch a", "collect a", "launch b", "collect b"]
    assert not pipeline.alive
