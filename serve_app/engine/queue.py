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
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from typing import Generic, TypeVar

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


@dataclass(slots=True, eq=False)
class QueuedInput:
    """What the queue needs to know of an input: size in tokens, arrival and deadline in monotonic seconds.

    `cost` is what it takes of a batch's token budget: its size, where nobody sets another.
    An input is pushed once in its life (a retry is a new one). `waiting` is True while it is in the queue.
    """

    tokens: int
    priority: int
    deadline: float
    arrival: float
    lane: int = field(default=0, init=False)
    waiting: bool = field(default=False, init=False)
    cost: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.cost = self.tokens


T = TypeVar("T", bound=QueuedInput)
_arrival = attrgetter("arrival")


class _Lane(Generic[T]):
    """Inputs by arrival; those that left stay until they are in front or outnumber the waiting ones."""

    __slots__ = ("inputs", "led_at", "live", "patience")

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.inputs: deque[T] = deque()
        self.live = 0
        self.led_at = -math.inf

    def head(self) -> T:
        inputs = self.inputs
        while not inputs[0].waiting:
            inputs.popleft()
        return inputs[0]

    def virtual_deadline(self) -> float:
        return max(self.head().arrival, self.led_at) + self.patience

    def fitting(self, max_tokens: float, max_inputs: int) -> list[T]:
        fitting: list[T] = []
        for item in self.inputs:
            if item.waiting:
                if item.cost > max_tokens or len(fitting) == max_inputs:
                    break
                fitting.append(item)
                max_tokens -= item.cost
        return fitting


class InputQueue(Generic[T]):
    """Inputs waiting for their turn; see the module's text for the order. Synchronous, not thread-safe."""

    def __init__(self, policy: QueuePolicy | None = None) -> None:
        self._policy = policy or QueuePolicy()
        self.tokens = 0
        self._size = 0
        self._lanes: list[_Lane[T]] = [_Lane(self.policy.patience(lane)) for lane in range(self.policy.lanes)]
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
        lane = self._enter(item)
        if lane.inputs and lane.inputs[-1].arrival > item.arrival:
            lane.inputs.insert(bisect_left(lane.inputs, item.arrival, key=_arrival), item)
        else:
            lane.inputs.append(item)

    def requeue(self, items: Sequence[T]) -> None:
        """Add inputs in front, in their order: ahead even of those that arrived at the same time."""
        for item in reversed(items):
            lane = self._enter(item)
            lane.inputs.insert(bisect_left(lane.inputs, item.arrival, key=_arrival), item)

    def discard(self, item: T) -> bool:
        """Remove an input, wherever it waits; False if it doesn't. Constant time, amortised."""
        if not item.waiting:
            return False
        item.waiting = False
        lane = self._lanes[item.lane]
        lane.live -= 1
        self._size -= 1
        self.tokens -= item.tokens
        if not lane.live:
            lane.inputs.clear()
        elif len(lane.inputs) > 2 * lane.live + 64:
            lane.inputs = deque(other for other in lane.inputs if other.waiting)
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
        same_class = (first // len(Priority) + 1) * len(Priority)
        others = [lane for lane in self._lanes[:same_class] if lane is not self._lanes[first] and lane.live]
        for lane in sorted(others, key=_Lane.virtual_deadline):
            if left <= 0 or len(taken) >= max_inputs:
                break
            fill = lane.fitting(left, max_inputs - len(taken))
            for item in fill:
                left -= item.cost
                self.discard(item)
            taken += fill
        return taken

    def _enter(self, item: T) -> _Lane[T]:
        if item.tokens < 0 or item.waiting:
            raise ValueError("an input has a size and is pushed once")
        item.lane = self.policy.lane(item.tokens, item.priority)
        item.waiting = True
        self._size += 1
        self.tokens += item.tokens
        if item.deadline != math.inf:
            heapq.heappush(self._deadlines, (item.deadline, next(self._tie), item))
        lane = self._lanes[item.lane]
        lane.live += 1
        return lane
