"""What the engine is at, and what it has done."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.engine.batch import Batch
from serve_app.engine.rate import TokenRate


class RunningBatches:
    """The batches handed to the engine and not returned yet, and the sums over those that were. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tokens = 0
        self.rate = TokenRate()
        self._clock = clock
        self._batches: set[Batch] = set()
        self._busy_seconds = 0.0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def busy_seconds(self) -> float:
        """Time that the engine has computed since the start, the batches that run now included."""
        now = self._clock()
        return self._busy_seconds + sum(max(0.0, now - batch.started) for batch in self._batches if batch.started)

    def add(self, batch: Batch) -> None:
        """It is about to be handed over."""
        self._batches.add(batch)
        self.tokens += batch.tokens

    def remove(self, batch: Batch) -> bool:
        """It came back; False if it was given up before."""
        if batch not in self._batches:
            return False
        self._batches.remove(batch)
        self.tokens -= batch.tokens
        self._busy_seconds += batch.ended - batch.started
        return True

    def clear(self) -> None:
        """Give them all up: the engine is gone."""
        self._batches.clear()
        self.tokens = 0
