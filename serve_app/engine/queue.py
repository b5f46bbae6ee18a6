"""Which inputs go next: one priority queue, used by the replica's batcher and by the gateway's dispatcher.

The policy, stated once:

- Inputs wait in *lanes*, one per length class and priority. A lane is first come, first served.
- Every lane has a *patience*: none for short interactive inputs, more for each longer class,
  `bulk_patience_s` more for bulk. A lane's *virtual deadline* is its patience added to the time since when
  its head is in front: the head's arrival or the last time that the lane led, whichever is later. The
  earliest virtual deadline leads.
- So interactive overtakes bulk and short overtakes long, however large the backlog of the others is; and
  nothing starves, because once a virtual deadline has passed, every other lane can lead at most once before
  it. (Counted from the arrival alone, an aged backlog of bulk would go ahead of every new interactive
  input.)
- A batch starts with the leading lane. The batcher fills what is left of the budget from lanes of the same
  or a shorter class: they would wait for that batch anyway. The dispatcher stays within the lane: a short
  query never shares an RPC with an 8k document, nor an interactive one with bulk that the replica will hold
  back.
- An input over the token budget on its own is taken alone; a lane whose next input doesn't fit is not
  searched any further.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic

from serve_app.engine.lane import Lane, T
from serve_app.types import Priority


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Length classes and patience.

    Class `k` holds inputs of at most `class_bounds[k]` tokens; one more class holds the longer ones, hence
    one more entry in `class_patience_s` (seconds). Raises ValueError if the bounds don't rise or the
    lengths differ.
    """

    class_bounds: tuple[int, ...] = (512, 2048, 8192)
    class_patience_s: tuple[float, ...] = (0.0, 0.25, 1.0, 4.0)
    bulk_patience_s: float = 2.0

    def __post_init__(self) -> None:
        if list(self.class_bounds) != sorted(set(self.class_bounds)):
            raise ValueError("class_bounds must rise")
        if len(self.class_patience_s) != len(self.class_bounds) + 1:
            raise ValueError("class_patience_s needs one entry more than class_bounds")

    def lane(self, tokens: int, priority: int) -> int:
        """The lane of an input: its length class times the number of priorities, plus its priority."""
        return bisect_left(self.class_bounds, tokens) * len(Priority) + priority

    def patience(self, lane: int) -> float:
        """How many seconds the lane lets others lead."""
        length_class, priority = divmod(lane, len(Priority))
        return self.class_patience_s[length_class] + self.bulk_patience_s * priority

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return len(self.class_patience_s) * len(Priority)


class InputQueue(Generic[T]):
    """Inputs waiting for their turn; see the module's text for the order. Synchronous, not thread-safe."""

    def __init__(self, policy: QueuePolicy | None = None) -> None:
        self._policy = policy or QueuePolicy()
        self.tokens = 0
        self._size = 0
        self._lanes: list[Lane[T]] = [Lane(self.policy.patience(lane)) for lane in range(self.policy.lanes)]
        self._deadlines: list[tuple[float, int, T]] = []
        self._tie = count()

    @property
    def policy(self) -> QueuePolicy:
        """Can be set at any time to one with the same `class_bounds`; raises ValueError for others."""
        return self._policy

    @policy.setter
    def policy(self, policy: QueuePolicy) -> None:
        if policy.class_bounds != self._policy.class_bounds:
            raise ValueError("the length classes can't change while inputs wait in them")
        self._policy = policy
        for index, lane in enumerate(self._lanes):
            lane.patience = policy.patience(index)

    def __len__(self) -> int:
        return self._size

    def oldest_age(self, now: float) -> float:
        """Seconds that the input which arrived first has waited; 0 when none waits."""
        return now - min((lane.head().arrival for lane in self._lanes if lane.live), default=now)

    def push(self, item: T) -> None:
        """Add an input behind all that arrived before it. Raises ValueError for a negative size."""
        self._enter(item).append(item)

    def requeue(self, items: Sequence[T]) -> None:
        """Add inputs in front, in their order: ahead even of those that arrived at the same time."""
        for item in reversed(items):
            self._enter(item).prepend(item)

    def discard(self, item: T) -> bool:
        """Remove an input, wherever it waits; False if it doesn't. Constant time, amortised."""
        if not item.waiting:
            return False
        item.waiting = False
        self._lanes[item.lane].left()
        self._size -= 1
        self.tokens -= item.tokens
        if len(self._deadlines) > 2 * self._size + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapq.heapify(self._deadlines)
        return True

    def drop_expired(self, now: float) -> list[T]:
        """Remove and return all inputs whose deadline is not after `now`."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            item = heapq.heappop(self._deadlines)[2]
            if self.discard(item):
                expired.append(item)
        return expired

    def leader(self, skip: Container[int] = ()) -> int | None:
        """The lane with the earliest virtual deadline that isn't in `skip`; None if no other waits."""
        waiting = [index for index, lane in enumerate(self._lanes) if lane.live and index not in skip]
        if len(waiting) < 2:
            return waiting[0] if waiting else None
        return min(waiting, key=lambda index: self._lanes[index].virtual_deadline())

    def peek(self, lane: int, max_tokens: int, max_inputs: int) -> list[T]:
        """What a batch from this lane alone would hold now; nothing is removed."""
        fitting = self._lanes[lane].fitting(max_tokens, max_inputs)
        if not fitting and self._lanes[lane].live:
            return [self._lanes[lane].head()]
        return fitting

    def lead(self, lane: int, items: Iterable[T], now: float) -> None:
        """Remove what `peek` gave; the lane has led and its patience starts again."""
        self._lanes[lane].led_at = now
        for item in items:
            self.discard(item)

    def take(self, max_tokens: int, max_inputs: int, now: float) -> list[T]:
        """Remove and return the next batch, filled up from other lanes; empty if nothing waits."""
        first = self.leader()
        if first is None:
            return []
        taken = self.peek(first, max_tokens, max_inputs)
        self.lead(first, taken, now)
        left = max_tokens - sum(item.cost for item in taken)
        return taken + self.fill(first, left, max_inputs - len(taken))

    def fill(self, lane: int, max_tokens: int, max_inputs: int) -> list[T]:
        """Remove and return what more fits into a batch that `lane` leads: from itself, then from other lanes."""
        leading = self._lanes[lane]
        same_class = (lane // len(Priority) + 1) * len(Priority)
        others = [other for other in self._lanes[:same_class] if other is not leading and other.live]
        taken: list[T] = []
        for each in [leading, *sorted(others, key=Lane.virtual_deadline)]:
            if max_tokens <= 0 or len(taken) >= max_inputs:
                break
            fill = each.fitting(max_tokens, max_inputs - len(taken))
            for item in fill:
                max_tokens -= item.cost
                self.discard(item)
            taken += fill
        return taken

    def _enter(self, item: T) -> Lane[T]:
        if item.tokens < 0 or item.waiting:
            raise ValueError("an input has a size and is pushed once")
        item.lane = self.policy.lane(item.tokens, item.priority)
        item.waiting = True
        self._size += 1
        self.tokens += item.tokens
        if item.deadline != math.inf:
            heapq.heappush(self._deadlines, (item.deadline, next(self._tie), item))
        return self._lanes[item.lane]
