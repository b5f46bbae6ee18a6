"""A batcher over an engine whose vectors say which tokens they come from, and which waits to be told its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from queue import SimpleQueue

import numpy as np

from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.queue import QueuePolicy
from serve_app.errors import NonFiniteError
from serve_app.types import TokenIds

HIDDEN = 3
POLICY = QueuePolicy(class_bounds=(10, 100), class_patience_s=(0.0, 1.0, 5.0), bulk_patience_s=2.0)


def tokens(n: int, mark: int) -> TokenIds:
    """An input of `n` tokens that no other has."""
    return np.full(n, mark, np.int32)


def vector(token_ids: TokenIds) -> list[float]:
    return [float(token_ids[0]), float(len(token_ids)), 1.0]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Blocks in each batch until told its outcome: `None` computes, a set fails those rows, a callable is called."""

    def __init__(self, clock: Clock | None = None, seconds: float = 0.0) -> None:
        self.batches: list[list[TokenIds]] = []
        self.entered = threading.Semaphore(0)
        self.outcomes: SimpleQueue[set[int] | Callable[[], None] | None] = SimpleQueue()
        self.held = False
        self.threads: set[int] = set()
        self.clock = clock
        self.seconds = seconds

    def run(self, batch: list[TokenIds], tenants: Sequence[int] = ()) -> EncodedBatch:
        self.threads.add(threading.get_ident())
        self.batches.append(batch)
        self.entered.release()
        outcome = self.outcomes.get(timeout=10) if self.held else None
        if self.clock is not None:
            self.clock.now += self.seconds
        if callable(outcome):
            outcome()
        vectors = np.array([vector(each) for each in batch], np.float32)
        return EncodedBatch(vectors, {row: NonFiniteError(str(row)) for row in outcome or () if row < len(batch)})  # type: ignore[union-attr]

    def marks(self) -> list[list[int]]:
        return [[int(each[0]) for each in batch] for batch in self.batches]

    async def started(self) -> None:
        """Wait until one more batch is in the engine."""
        await asyncio.to_thread(self.entered.acquire, timeout=10)


@contextlib.asynccontextmanager
async def batching(engine: Engine, **changes: object) -> AsyncIterator[Batcher]:
    options: dict[str, object] = {"max_batch_tokens": 100, "max_batch_inputs": 8, "policy": POLICY}
    batcher = Batcher(engine.run, hidden_size=HIDDEN, **(options | changes))  # type: ignore[arg-type]
    yield batcher
    await asyncio.wait_for(batcher.close(), 10)
    assert batcher.outstanding_tokens == 0
    assert (len(batcher.queue), len(batcher._open), len(batcher._running)) == (0, 0, 0)
    assert not batcher._waiting._twins._waiting
    assert not batcher._running._rows
    assert not batcher._thread.alive


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
