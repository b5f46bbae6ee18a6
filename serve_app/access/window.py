"""Counting what was used in the last minute, exactly: in any 60 seconds no more than the limit is let through.

It is kept by seconds, so that an amount takes the same room and time whether it is one request or 300,000 tokens; a second is
forgotten as a whole once all of it is more than 60 seconds ago. (Counters of whole minutes, weighted or not, let almost twice the
limit through within 60 seconds; a log of entries needs one for each token.)
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SECONDS = 60


class Taken(NamedTuple):
    """The answer to "may I have so much more?".

    `used` is what counts against the limit now, this amount included if it was given. `wait` is 0 if it was, else in how many seconds
    there will be room for it. `reset` is in how many seconds all of the limit will be there again.
    """

    used: int
    wait: float
    reset: float


class Window:
    """The last minute of one limit. Times are seconds of one clock, which doesn't go backwards."""

    __slots__ = ("_seconds", "used")

    def __init__(self) -> None:
        self._seconds: deque[list[int]] = deque()  # [second, amount], the oldest first
        self.used = 0

    def take(self, now: float, limit: int, amount: int) -> Taken:
        """Use `amount` more if that keeps within `limit`."""
        second, seconds = int(now), self._seconds
        if seconds and seconds[0][0] < second - SECONDS:
            self._forget(second - SECONDS)
        wait = 0.0
        if self.used + amount <= limit:
            self.add(second, amount)
        else:
            wait = self._wait(now, limit, amount)
        return Taken(self.used, wait, seconds[-1][0] + SECONDS + 1 - now if seconds else 0.0)

    def add(self, second: int, amount: int) -> None:
        """Use `amount` more in this second, whatever the limit."""
        if amount:
            seconds = self._seconds
            if seconds and seconds[-1][0] == second:
                seconds[-1][1] += amount
            else:
                seconds.append([second, amount])
            self.used += amount

    def _forget(self, oldest: int) -> None:
        seconds = self._seconds
        while seconds and seconds[0][0] < oldest:
            self.used -= seconds.popleft()[1]

    def _wait(self, now: float, limit: int, amount: int) -> float:
        missing = self.used + amount - limit
        for second, used in self._seconds:
            missing -= used
            if missing <= 0:
                return second + SECONDS + 1 - now
        return float(SECONDS)  # more than the limit at once: for ever
