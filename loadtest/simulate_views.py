"""Our way to choose a replica as the simulator's gateways use it, and what it could become: a sample, a subset, another guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from loadtest.simulate_gateway import View
from serve_app.cluster.replicas import ReplicaSet
from serve_app.types import ReplicaStatus

if TYPE_CHECKING:
    from loadtest.simulate_cluster import Cluster
    from loadtest.simulate_gateway import Gateway

FADE_SECONDS = 0.1
FADE_WEIGHT = 0.05  # of each reply in the average


class SampledView(ReplicaSet):
    """Our view, that looks at `sample` random replicas of the rotation instead of all; at all, if none of those has a slot."""

    def __init__(self, sample: int, random: Random, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._sample = sample
        self._random = random
        self._names: list[str] = []

    def set_replicas(self, ids: Sequence[str]) -> None:  # type: ignore[override]
        super().set_replicas(ids)
        self._names = [*self.available]

    def try_acquire(self, lane: int, tokens: int) -> str | None:  # type: ignore[override]
        everyone = self._rotation
        if len(everyone) > self._sample:
            self._rotation = {name: everyone[name] for name in self._random.sample(self._names, self._sample)}
            try:
                name = super().try_acquire(lane, tokens)
            finally:
                self._rotation = everyone
            if name is not None:
                return name
        return super().try_acquire(lane, tokens)


class FadingView(ReplicaSet):
    """Ours, with another guess at replicas unheard for a while: that they have as much to do for other gateways as replicas lately
    said they have, on average, instead of nothing. What a replica said counts by half after `fade` seconds."""

    def __init__(self, random: Random, fade: float = FADE_SECONDS, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._random = random
        self._fade = fade
        self._others = 0.0

    def set_replicas(self, ids: Sequence[str]) -> None:  # type: ignore[override]
        super().set_replicas(ids)
        # So that gateways don't go through equals in one order.
        shuffled = [*self._rotation.items()]
        self._random.shuffle(shuffled)
        self._rotation = dict(shuffled)

    def release(self, replica: str, lane: int, tokens: int, status: ReplicaStatus | None) -> None:
        super().release(replica, lane, tokens, status)
        if replica in self._replicas:
            self._others += FADE_WEIGHT * (self._replicas[replica].others - self._others)

    def try_acquire(self, lane: int, tokens: int) -> str | None:  # type: ignore[override]
        now, best, least = self._clock(), None, 0.0
        for name, replica in self._rotation.items():
            if replica.used[lane] < self.slots_per_class:
                heard = self._fade / (self._fade + now - replica.replied_at)
                expected = heard * (replica.outstanding(now) - replica.tokens) + (1 - heard) * self._others
                outstanding = replica.tokens + expected
                if best is None or outstanding < least:
                    best, least = name, outstanding
        if best is None:
            return None
        replica = self._rotation[best] = self._rotation.pop(best)
        replica.used[lane] += 1
        replica.in_flight += 1
        replica.tokens += tokens
        return best


def fading_view(slots: int, fade: float = FADE_SECONDS) -> Callable[[Cluster, Gateway], View]:
    """Ours, where replicas unheard for long are thought to be like the others."""
    return lambda cluster, gateway: FadingView(cluster.choices, fade, slots_per_class=slots, clock=gateway.clock)


def tokens_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """The service's own: fewest outstanding tokens, as this gateway believes."""
    return lambda cluster, gateway: ReplicaSet(slots_per_class=slots, clock=gateway.clock)


def sampled_view(slots: int, sample: int) -> Callable[[Cluster, Gateway], View]:
    """Ours, among `sample` random replicas."""
    return lambda cluster, gateway: SampledView(sample, cluster.choices, slots_per_class=slots, clock=gateway.clock)


def subset(names: Sequence[str], gateway: int, gateways: int, size: int) -> list[str]:
    """`size` of the replicas for one gateway, so that every replica is in as many subsets as any other, give or take one.

    The replicas stand in a ring, and gateways start at equal distances on it; neighbours overlap.
    """
    ring = sorted(names)
    if size >= len(ring):
        return ring
    start = gateway * len(ring) // gateways
    return [ring[(start + i) % len(ring)] for i in range(size)]
