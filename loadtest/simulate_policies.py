"""Ways to choose a replica that others use, to hold ours against; and one that no gateway can.

All keep to the same slots per replica and lane, so that only the choice differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from loadtest.simulate_gateway import View
from loadtest.simulate_views import heard_view, tokens_view
from serve_app.types import ReplicaStatus

if TYPE_CHECKING:
    from loadtest.simulate_cluster import Cluster
    from loadtest.simulate_gateway import Gateway

Choose = Callable[[Sequence[str]], str]


class ChoiceView:
    """Slots of one gateway; `choose` picks among the replicas that have one free.

    With `sample`, only so many random replicas are looked at; all, if none of those is free.
    """

    def __init__(self, slots: int, choose: Choose, random: Random, sample: int = 0) -> None:
        self._slots = slots
        self._choose = choose
        self._random = random
        self._sample = sample
        self._names: list[str] = []
        self._used: Counter[tuple[str, int]] = Counter()

    def set_replicas(self, ids: Sequence[str]) -> None:
        self._names = sorted(ids)

    def try_acquire(self, lane: int, tokens: int) -> str | None:
        names = self._names
        if 0 < self._sample < len(names):
            names = self._random.sample(names, self._sample)
        free = self._free(names, lane) or (self._free(self._names, lane) if self._sample else [])
        if not free:
            return None
        name = self._choose(free)
        self._used[name, lane] += 1
        return name

    def release(self, replica: str, lane: int, tokens: int, status: ReplicaStatus | None) -> None:
        self._used[replica, lane] -= 1

    def _free(self, names: Sequence[str], lane: int) -> list[str]:
        return [name for name in names if self._used[name, lane] < self._slots]


def random_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """Any replica."""
    return lambda cluster, _: ChoiceView(slots, cluster.choices.choice, cluster.choices)


def round_robin_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """Each in turn, as this gateway counts."""

    def view(cluster: Cluster, gateway: Gateway) -> View:
        last: dict[str, int] = {}
        turn = 0

        def choose(free: Sequence[str]) -> str:
            nonlocal turn
            turn += 1
            name = min(free, key=lambda name: last.get(name, 0))
            last[name] = turn
            return name

        return ChoiceView(slots, choose, cluster.choices)

    return view


def power_of_two_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """The one with fewer requests of two random ones, as Serve does; the counts are the true ones, which is more than Serve knows."""

    def view(cluster: Cluster, gateway: Gateway) -> View:
        return ChoiceView(slots, lambda free: min(free, key=cluster.requests_at), cluster.choices, sample=2)

    return view


def true_tokens_view(slots: int) -> Callable[[Cluster, Gateway], View]:
    """Fewest outstanding tokens, truly: those at the replica and on the way to it. No gateway can know this; it bounds what a better
    view would bring."""

    def view(cluster: Cluster, gateway: Gateway) -> View:
        return ChoiceView(slots, lambda free: min(free, key=cluster.tokens_at), cluster.choices)

    return view


ROUTING = {
    "least tokens (ours)": tokens_view,
    "least tokens, as last heard": heard_view,
    "least tokens, true": true_tokens_view,
    "power of two requests": power_of_two_view,
    "round robin": round_robin_view,
    "random": random_view,
}
