"""What the engine is at, and what it has done."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.engine.batch import Batch
from serve_app.engine.rate import TokenRate
from serve_app.engine.submission import Input, ShareKey


class RunningBatches:
    """The batches handed to the engine and not returned yet, and the sums over those that were. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tokens = 0
        self.rate = TokenRate()
        self._clock = clock
        self._batches: set[Batch] = set()
        self._rows: dict[ShareKey, tuple[Batch, int]] = {}  # where the input with that key is
        self._busy_seconds = 0.0
        self._ended = 0.0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def busy_seconds(self) -> float:
        """Time that the engine has computed since the start, the batches that run now included."""
        begun = [batch.started for batch in self._batches if batch.started and not batch.ended]
        return self._busy_seconds + (max(0.0, self._clock() - max(self._ended, min(begun))) if begun else 0.0)

    def add(self, batch: Batch) -> None:
        """It is about to be handed over."""
        self._batches.add(batch)
        self.tokens += batch.tokens
        for row, item in enumerate(batch.inputs):
            if item.key is not None:
                self._rows[item.key] = batch, row

    def join(self, item: Input) -> bool:
        """Whether one with the same key is computed already: then `item` gets the answer of that."""
        if item.key is None or item.key not in self._rows:
            return False
        batch, row = self._rows[item.key]
        batch.followers.setdefault(row, []).append(item)
        batch.tokens += item.tokens
        self.tokens += item.tokens
        return True

    def end(self, batch: Batch) -> None:
        """It is computed; on the engine's thread. One that was launched behind another started when that ended."""
        batch.started, batch.ended = max(batch.started, self._ended), self._clock()
        self._ended = batch.ended

    def remove(self, batch: Batch) -> bool:
        """It came back; False if it was given up before."""
        if batch not in self._batches:
            return False
        self._batches.remove(batch)
        self.tokens -= batch.tokens
        for item in batch.inputs:
            if item.key is not None:
                del self._rows[item.key]
        self._busy_seconds += batch.ended - batch.started
        return True

    def clear(self) -> None:
        """Give them all up: the engine is gone."""
        self._batches.clear()
        self._rows.clear()
        self.tokens = 0
