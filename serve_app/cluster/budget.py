"""How much may be sent a second time, so that retries never become the overload."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 60
FLOOR_SECONDS = 10.0


class _Window:
    """A sum over the last `WINDOW_SECONDS`, kept by whole seconds."""

    def __init__(self) -> None:
        self._sum = 0
        self._seconds: deque[list[int]] = deque()  # [second, amount]

    def add(self, amount: int, now: float) -> None:
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += amount
        else:
            self._seconds.append([second, amount])
        self._sum += amount

    def sum(self, now: float) -> int:
        oldest = int(now) - WINDOW_SECONDS
        while self._seconds and self._seconds[0][0] <= oldest:
            self._sum -= self._seconds.popleft()[1]
        return self._sum


class RetryBudget:
    """Tokens sent again are at most `share` of those first sent in the last minute, plus `floor` tokens in every 10 s.

    The floor keeps a gateway with little traffic able to retry at all: it is meant to be what one replica can hold. A retry
    larger than the floor goes once nothing else is owed. `now` is in monotonic seconds.
    """

    def __init__(self, share: float = 0.1, floor: int = 0) -> None:
        self.share = share
        self.floor = floor
        self._first = _Window()
        self._again = _Window()
        self._debt = 0.0  # of the floor; paid off at its rate
        self._paid_at = 0.0

    def sent(self, tokens: int, now: float) -> None:
        """So many tokens were sent for the first time."""
        self._first.add(tokens, now)

    def allows(self, tokens: int, now: float) -> bool:
        """Whether so many tokens may be sent again now."""
        if self._fits(tokens, now):
            return True
        owed = self._owed(now)
        return self.floor > 0 and (not owed or owed + tokens <= self.floor)

    def spend(self, tokens: int, now: float) -> None:
        """So many tokens were sent again."""
        if self._fits(tokens, now):
            self._again.add(tokens, now)
        else:
            self._debt = self._owed(now) + tokens
            self._paid_at = now

    def _fits(self, tokens: int, now: float) -> bool:
        return self._again.sum(now) + tokens <= self.share * self._first.sum(now)

    def _owed(self, now: float) -> float:
        return max(0.0, self._debt - (now - self._paid_at) * self.floor / FLOOR_SECONDS)
