"""This gateway's view of the replicas: free slots, outstanding tokens, and who is out of the rotation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

from serve_app.types import ReplicaStatus

NOBODY: frozenset[str] = frozenset()

# What a replica had to do for other gateways when it last replied counts by half after so long: by then they have sent it more, or
# nothing. The rest of the guess is what replicas said lately, on average. (Simulated with up to 1,000 replicas: without it, a
# gateway takes those it hasn't heard of for idle, and many gateways meet at the same few.)
FADE_SECONDS = 0.1
AVERAGE_WEIGHT = 0.05  # of each reply in that average
# So little isn't worth avoiding: with next to nothing to do, replicas take turns, instead of those heard last getting all of it.
NEGLIGIBLE_TOKENS = 256


@dataclass(slots=True, eq=False)
class _Replica:
    """`others` is what the replica had to do beside our own chunks when it last replied, at `replied_at`."""

    listed: bool = True
    leaving: bool = False
    down: bool = False
    in_flight: int = 0
    tokens: int = 0
    used: Counter[int] = field(default_factory=Counter)
    others: int = 0
    rate: float = 0.0
    replied_at: float = 0.0
    computed_at: float = 0.0

    def outstanding(self, now: float) -> float:
        # Worked off since then: a replica once seen busy must not look busy until somebody dares to ask it again.
        drained = self.rate * (now - self.replied_at)
        return self.tokens + max(0.0, self.others - drained)

    def guess(self, now: float, fade_seconds: float, others_on_average: float) -> float:
        """Outstanding tokens, if what was heard of it fades into what is heard of the others."""
        heard = fade_seconds / (fade_seconds + now - self.replied_at)
        others = heard * (self.outstanding(now) - self.tokens) + (1 - heard) * others_on_average
        return self.tokens + others if others >= NEGLIGIBLE_TOKENS else self.tokens


class ReplicaSet:
    """The replicas as a gateway sees them; to be used from its event loop only. `clock` gives monotonic seconds.

    Slots are counted per replica and lane, so that long documents never hold the slots of short queries,
    nor bulk those of interactive inputs: `slots_per_class` for each, which may be set at any time. A replica marked unavailable
    stays out of the rotation until it is marked available: being named anew doesn't bring it back, for who lists the replicas may
    never have noticed. Replicas that are leaving are in the rotation while no other is: during a redeploy there may be none, or
    none of this gateway's model. `shuffle` orders new replicas: gateways that all went through equals in one order would meet.
    """

    def __init__(
        self,
        *,
        slots_per_class: int = 2,
        clock: Callable[[], float] = time.monotonic,
        shuffle: Callable[[list[str]], None] = list.sort,
        fade_seconds: float = FADE_SECONDS,
    ) -> None:
        self.slots_per_class = slots_per_class
        self.available: list[str] = []
        """Ids of the replicas in the rotation."""
        self._clock = clock
        self._shuffle = shuffle
        self._fade_seconds = fade_seconds
        self._others_on_average = 0.0
        self._replicas: dict[str, _Replica] = {}
        self._rotation: dict[str, _Replica] = {}  # those available; who got a chunk last stands last
        self._callbacks: list[Callable[[], None]] = []

    @property
    def listed(self) -> list[str]:
        """Ids of the replicas that exist, whether they answer or not."""
        return [name for name, replica in self._replicas.items() if replica.listed]

    @property
    def down(self) -> list[str]:
        """Ids of those that exist but are out of the rotation."""
        return [name for name, replica in self._replicas.items() if replica.listed and replica.down]

    @property
    def outstanding_tokens(self) -> int:
        """Tokens believed to be waiting or running at the available replicas, whoever sent them."""
        now = self._clock()
        return int(sum([replica.outstanding(now) for replica in self._rotation.values()]))

    @property
    def tokens_per_second(self) -> float:
        """What the available replicas can do together, those that haven't measured yet taken as the mean of the others; 0 if
        unknown."""
        return self._mean_rate() * len(self._rotation)

    def is_available(self, replica: str) -> bool:
        """Whether a replica is in the rotation."""
        return replica in self._rotation

    def is_down(self, replica: str) -> bool:
        """Whether a replica was marked unavailable."""
        state = self._replicas.get(replica)
        return state is not None and state.down

    def is_listed(self, replica: str) -> bool:
        """Whether a replica exists, as far as Serve has told."""
        state = self._replicas.get(replica)
        return state is not None and state.listed

    def replied_at(self, replica: str) -> float:
        """When a replica last gave its status."""
        return self._replicas[replica].replied_at

    def computed_at(self, replica: str) -> float:
        """When a replica last answered a chunk; when it was first seen, if it hasn't."""
        return self._replicas[replica].computed_at

    def expected_seconds(self, replica: str) -> float | None:
        """How long a replica should take for all it has; None if no replica has measured its rate."""
        state = self._replicas[replica]
        rate = state.rate or self._mean_rate()
        return (state.tokens + state.others) / rate if rate else None

    def set_replicas(self, ids: Iterable[str], leaving: Iterable[str] = ()) -> None:
        """Replace the list of replicas. Those already known keep their state; one no longer named may still reply.

        `leaving` are being stopped and still work, as far as they were known before.
        """
        named, going = set(ids), set(leaving)
        for name, replica in [*self._replicas.items()]:
            replica.listed, replica.leaving = name in named, name in going
            self._forget_if_gone(name)
        new = sorted(named - self._replicas.keys())
        self._shuffle(new)
        for name in new:
            self._replicas[name] = _Replica(replied_at=self._clock(), computed_at=self._clock())
        self._turn()
        self._notify()

    def try_acquire(self, lane: int, tokens: int, avoid: Set[str] = NOBODY, never: Set[str] = NOBODY) -> str | None:
        """Take a slot for `tokens` at the replica with the fewest outstanding tokens, as far as is known; None if none is free.

        Replicas in `avoid` are passed over as long as there are others, be they busy; those in `never` always.
        """
        rotation = self._rotation
        if never:
            rotation = {name: replica for name, replica in rotation.items() if name not in never}
        if avoid:
            rotation = {name: replica for name, replica in rotation.items() if name not in avoid} or rotation
        now, fade, others = self._clock(), self._fade_seconds, self._others_on_average
        best: str | None = None
        least = 0.0
        for name, replica in rotation.items():
            if replica.used[lane] < self.slots_per_class:
                outstanding = replica.guess(now, fade, others)
                if best is None or outstanding < least:
                    best, least = name, outstanding
        if best is None:
            return None
        # Behind its equals, so that ties go round.
        replica = self._rotation[best] = self._rotation.pop(best)
        replica.used[lane] += 1
        replica.in_flight += 1
        replica.tokens += tokens
        return best

    def release(self, replica: str, lane: int, tokens: int, status: ReplicaStatus | None) -> None:
        """Give back what `try_acquire` took; `status` corrects what is known of the replica."""
        state = self._replicas[replica]
        state.used[lane] -= 1
        state.in_flight -= 1
        state.tokens -= tokens
        if status is not None:
            state.computed_at = self._clock()
            self._learn(state, status)
        if not state.listed:
            self._forget_if_gone(replica)
        self._notify()

    def hear(self, replica: str, status: ReplicaStatus) -> None:
        """A replica said how it is without having been sent anything."""
        state = self._replicas.get(replica)
        if state is not None:
            self._learn(state, status)

    def mark_unavailable(self, replica: str) -> None:
        """Take a replica out of the rotation at once."""
        if replica in self._replicas:
            self._replicas[replica].down = True
            self._turn()

    def mark_available(self, replica: str) -> None:
        """Let a replica back in."""
        if replica in self._replicas:
            self._replicas[replica].down = False
            self._turn()
            self._notify()

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back, synchronously, whenever a slot or a replica may have become free."""
        self._callbacks.append(callback)

    def _learn(self, state: _Replica, status: ReplicaStatus) -> None:
        state.others = max(0, status.outstanding_tokens - state.tokens)
        state.rate = status.tokens_per_second
        state.replied_at = self._clock()
        self._others_on_average += AVERAGE_WEIGHT * (state.others - self._others_on_average)

    def _mean_rate(self) -> float:
        rates = [replica.rate for replica in self._rotation.values() if replica.rate]
        return sum(rates) / len(rates) if rates else 0.0

    def _forget_if_gone(self, name: str) -> None:
        state = self._replicas[name]
        if not (state.listed or state.leaving or state.in_flight):
            del self._replicas[name]

    def _turn(self) -> None:
        """Who is in the rotation now; those that stay keep their places."""
        up = {name: replica for name, replica in self._replicas.items() if not replica.down}
        usable = {name: replica for name, replica in up.items() if replica.listed}
        usable = usable or {name: replica for name, replica in up.items() if replica.leaving}
        self._rotation = {name: replica for name, replica in self._rotation.items() if name in usable} | usable
        self.available = [*self._rotation]

    def _notify(self) -> None:
        for callback in self._callbacks:
            callback()
