"""Our way to choose a replica as the simulator's gateways use it, and others that it could be: a sample, a subset, without fading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from loadtest.simulate_gateway import View
from serve_app.cluster.replicas import ReplicaSet

if TYPE_CHECKING:
    from loadtest.simulate_cluster import Cluster
    from loadtest.simulate_gateway import Gateway

NEVER = 1e9


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


def tokens_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """The service's own: fewest outstanding tokens, as this gateway believes."""
    return lambda cluster, gateway: ReplicaSet(
        slots_per_class=slots, clock=gateway.clock, shuffle=cluster.choices.shuffle
    )


def heard_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """The same if what a replica last said counted until it says something else, and all gateways had them in one order."""
    return lambda cluster, gateway: ReplicaSet(slots_per_class=slots, clock=gateway.clock, fade_seconds=NEVER)


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
