"""This gateway's view of the replicas: free slots, outstanding tokens, and who is out of the rotation."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

from serve_app.types import ReplicaStatus


@dataclass(slots=True, eq=False)
class _Replica:
    """`others` is what the replica had to do beside our own chunks when it last replied, at `replied_at`."""

    listed: bool = True
    down: bool = False
    losses: int = 0
    in_flight: int = 0
    tokens: int = 0
    used: Counter[int] = field(default_factory=Counter)
    others: int = 0
    rate: float = 0.0
    replied_at: float = 0.0

    def outstanding(self, now: float) -> float:
        # Worked off since then: a replica once seen busy must not look busy until somebody dares to ask it again.
        drained = self.rate * (now - self.replied_at)
        return self.tokens + max(0.0, self.others - drained)


def _call_later(delay: float, callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(delay, callback)


class ReplicaSet:
    """The `ReplicaView` of a gateway; to be used from its event loop only.

    Slots are counted per replica and lane, so that long documents never hold the slots of short queries,
    nor bulk those of interactive inputs: `slots_per_class` for each. A lost replica leaves the rotation for
    `back_off_s` seconds, twice as long after each further loss, up to `max_back_off_s`; a reply makes it
    trusted again. It need not be named anew to return: who lists the replicas may never have noticed.
    """

    def __init__(
        self,
        *,
        slots_per_class: int = 2,
        back_off_s: float = 1.0,
        max_back_off_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], None] = _call_later,
    ) -> None:
        self._slots = slots_per_class
        self._back_off_s = back_off_s
        self._max_back_off_s = max_back_off_s
        self._clock = clock
        self._call_later = call_later
        self._replicas: dict[str, _Replica] = {}
        self._callbacks: list[Callable[[], None]] = []

    @property
    def listed(self) -> list[str]:
        """Ids of the replicas that exist, in the rotation or not."""
        return [name for name, replica in self._replicas.items() if replica.listed]

    @property
    def available(self) -> list[str]:
        """Ids of the replicas in the rotation."""
        return [name for name, replica in self._replicas.items() if replica.listed and not replica.down]

    @property
    def outstanding_tokens(self) -> int:
        """Tokens believed to be waiting or running at the available replicas, whoever sent them."""
        now = self._clock()
        return int(sum(self._replicas[name].outstanding(now) for name in self.available))

    @property
    def tokens_per_second(self) -> float:
        """Sum of the rates that the available replicas last measured; 0 if unknown."""
        return sum(self._replicas[name].rate for name in self.available)

    def set_replicas(self, ids: Iterable[str]) -> None:
        """Replace the list of replicas. Those already known keep their state; one no longer named may still
        reply."""
        named = set(ids)
        for name in [*self._replicas]:
            self._replicas[name].listed = name in named
            self._forget_if_gone(name)
        for name in sorted(named - self._replicas.keys()):
            self._replicas[name] = _Replica()
        self._notify()

    def try_acquire(self, lane: int, tokens: int, exclude: Set[str] = frozenset()) -> str | None:
        """Take a slot for `tokens` at the replica with the fewest outstanding tokens; None if none is free.

        Replicas in `exclude` are passed over as long as there are others, be they busy.
        """
        names = self.available
        if exclude:
            names = [name for name in names if name not in exclude] or names
        free = [name for name in names if self._replicas[name].used[lane] < self._slots]
        if not free:
            return None
        now = self._clock()
        name = min(free, key=lambda name: self._replicas[name].outstanding(now))
        # Behind its equals, so that ties go round.
        replica = self._replicas[name] = self._replicas.pop(name)
        replica.used[lane] += 1
        replica.in_flight += 1
        replica.tokens += tokens
        return name

    def release(self, replica: str, lane: int, tokens: int, status: ReplicaStatus | None) -> None:
        """Give back what `try_acquire` took; `status` corrects what is known of the replica."""
        state = self._replicas[replica]
        state.used[lane] -= 1
        state.in_flight -= 1
        state.tokens -= tokens
        if status is not None:
            state.losses = 0
            state.others = max(0, status.outstanding_tokens - state.tokens)
            state.rate = status.tokens_per_second
            state.replied_at = self._clock()
        self._forget_if_gone(replica)
        self._notify()

    def mark_unavailable(self, replica: str) -> None:
        """Take a lost replica out of the rotation, for a while."""
        state = self._replicas.get(replica)
        if state is None or state.down:
            return
        state.down = True
        state.losses += 1
        delay = min(self._max_back_off_s, self._back_off_s * 2 ** (state.losses - 1))
        self._call_later(delay, lambda: self._return(state))

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back, synchronously, whenever a slot or a replica may have become free."""
        self._callbacks.append(callback)

    def _return(self, state: _Replica) -> None:
        state.down = False
        self._notify()

    def _forget_if_gone(self, name: str) -> None:
        state = self._replicas[name]
        if not state.listed and not state.in_flight:
            del self._replicas[name]

    def _notify(self) -> None:
        for callback in self._callbacks:
            callback()
