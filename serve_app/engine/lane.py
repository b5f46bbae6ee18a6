"""One lane of the queue: inputs in the order of their arrival."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar


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


class Lane(Generic[T]):
    """Inputs by arrival; those that left stay until they are in front or outnumber the waiting ones."""

    __slots__ = ("inputs", "led_at", "live", "patience")

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.inputs: deque[T] = deque()
        self.live = 0
        self.led_at = -math.inf

    def append(self, item: T) -> None:
        """`item` waits behind all that arrived before it or with it."""
        self.live += 1
        if self.inputs and self.inputs[-1].arrival > item.arrival:
            self.inputs.insert(bisect_right(self.inputs, item.arrival, key=_arrival), item)
        else:
            self.inputs.append(item)

    def prepend(self, item: T) -> None:
        """`item` waits in front of all that arrived after it or with it."""
        self.live += 1
        self.inputs.insert(bisect_left(self.inputs, item.arrival, key=_arrival), item)

    def left(self) -> None:
        """One of the inputs waits no more. Constant time, amortised."""
        self.live -= 1
        if not self.live:
            self.inputs.clear()
        elif len(self.inputs) > 2 * self.live + 64:
            self.inputs = deque(other for other in self.inputs if other.waiting)

    def head(self) -> T:
        """The input in front; there must be one."""
        inputs = self.inputs
        while not inputs[0].waiting:
            inputs.popleft()
        return inputs[0]

    def virtual_deadline(self) -> float:
        """When the lane should lead at the latest; there must be an input."""
        return max(self.head().arrival, self.led_at) + self.patience

    def fitting(self, max_tokens: float, max_inputs: int) -> list[T]:
        """The inputs in front, as many as keep to these bounds."""
        fitting: list[T] = []
        if self.live:
            self.head()  # what has left the front is not looked at twice
        for item in self.inputs:
            if item.waiting:
                if item.cost > max_tokens or len(fitting) == max_inputs:
                    break
                fitting.append(item)
                max_tokens -= item.cost
        return fitting
