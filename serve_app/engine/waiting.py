"""The inputs that wait for the engine, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.engine.batch import Batch
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.engine.submission import Input
from serve_app.engine.twins import Twins


class WaitingInputs:
    """A queue of inputs; those with the same key leave it together, whichever of them has its turn."""

    def __init__(self, policy: QueuePolicy | None) -> None:
        self.queue: InputQueue[Input] = InputQueue(policy)
        self._twins = Twins()

    def __len__(self) -> int:
        return len(self.queue)

    def add(self, item: Input) -> None:
        """It waits from now on."""
        self._twins.add(item)
        self.queue.push(item)

    def drop(self, item: Input) -> None:
        """It waits no more, if it did."""
        self.queue.discard(item)
        self._twins.forget(item)

    def fills(self, max_tokens: int, max_inputs: int) -> bool:
        """Whether a batch within these bounds gains nothing by waiting for more."""
        return self.queue.tokens >= max_tokens or len(self.queue) >= max_inputs

    def batch(self, max_tokens: int, max_inputs: int, now: float) -> Batch | None:
        """The next batch, within these bounds by what is to be computed; None if nothing waits."""
        taken = self.queue.take(max_tokens, max_inputs, now)
        if not taken:
            return None
        batch, lane = Batch([], 0), taken[0].lane
        while self._put(taken, batch) < len(taken):
            # Some only follow others: there is room for more.
            left = max_tokens - sum([item.cost for item in batch.inputs])
            taken = self.queue.fill(lane, left, max_inputs - len(batch.inputs))
        return batch

    def _put(self, taken: Iterable[Input], batch: Batch) -> int:
        """How many of them have a row of their own in the batch; the others, and all that are like them, follow."""
        before = len(batch.inputs)
        for item in taken:
            twins = self._twins.take(item)
            if not twins:
                continue  # it follows another that was taken
            followers = [twin for twin in twins if twin is not item]
            for twin in followers:
                self.queue.discard(twin)
            if followers:
                batch.followers[len(batch.inputs)] = followers
            batch.inputs.append(item)
            batch.tokens += item.tokens * len(twins)
        return len(batch.inputs) - before
