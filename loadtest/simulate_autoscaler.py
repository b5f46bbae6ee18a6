"""Autoscaling in the simulator: the service's own `decide`, with what it can know and when, and an oracle to hold it against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from loadtest.simulate_cluster import Cluster
from serve_app.cluster.autoscaling import Memory, Observation, Parameters, decide

# Gateways with a backlog tell every replica so often.
PING_SECONDS = 1.0


@dataclass(frozen=True)
class Timing:
    """`startup` is from a decision for more until a replica takes chunks; `report` is how old the replicas' figures are at a
    decision: they publish once an interval, and Serve's controller reads them when it decides."""

    startup: float
    report: float = 0.5


class Autoscaler:
    """Changes the cluster's replicas. `history` holds (seconds, replicas wanted) at each change; `running` the same of those ready.

    `replica_seconds` counts from the decision for a replica to its last answer.
    """

    def __init__(self, cluster: Cluster, parameters: Parameters, timing: Timing) -> None:
        self.target = len(cluster.replicas)
        self.history: list[tuple[float, int]] = [(0.0, self.target)]
        self.running: list[tuple[float, int]] = [(0.0, self.target)]
        self.replica_seconds = 0.0
        self._cluster = cluster
        self._parameters = parameters
        self._timing = timing
        self._memory: Memory | None = None
        self._starting: list[float] = []
        self._held_back = 0.0
        self._counted_at = 0.0
        cluster.events.at(parameters.interval_seconds, self._report)
        cluster.events.at(PING_SECONDS, self._ping)

    def settle(self) -> None:
        """Count replica-seconds up to now."""
        now, cluster = self._cluster.events.now, self._cluster
        cluster.retired = [replica for replica in cluster.retired if replica.chunks]
        alive = len(cluster.replicas) + len(cluster.retired) + len(self._starting)
        self.replica_seconds += alive * (now - self._counted_at)
        self._counted_at = now

    def _ping(self) -> None:
        cluster = self._cluster
        cluster.events.at(cluster.events.now + PING_SECONDS, self._ping)
        for gateway in cluster.gateways:
            if gateway.queue.tokens:
                for replica in cluster.replicas.values():
                    replica.backlogs.hear(str(gateway.number), gateway.queue.tokens)

    def _report(self) -> None:
        cluster, interval = self._cluster, self._parameters.interval_seconds
        cluster.events.at(cluster.events.now + interval, self._report)
        self.settle()
        held = [float(replica.backlogs.total()) for replica in cluster.replicas.values()]
        held_back = max(held, default=0.0)
        growth, self._held_back = (held_back - self._held_back) / interval, held_back
        seen = Observation(
            time=cluster.events.now,
            replicas=tuple(replica.load() for replica in cluster.replicas.values()),
            running_replicas=len(cluster.replicas),
            target_replicas=self.target,
            held_back_tokens=held_back,
            held_back_growth=growth,
            waiting_requests=float(any(gateway.queue.tokens for gateway in cluster.gateways)),
        )
        cluster.events.at(cluster.events.now + self._timing.report, self._decide, seen)

    def _decide(self, seen: Observation) -> None:
        wanted, self._memory = decide(seen, self._parameters, self._memory)
        if wanted == self.target:
            return
        now = self._cluster.events.now
        self.settle()
        while self.target < wanted:
            self.target += 1
            self._starting.append(now + self._timing.startup)
            self._cluster.events.at(self._starting[-1], self._started, self._starting[-1])
        while self.target > wanted and self._starting:
            # As Serve does: those that aren't ready yet go first.
            self.target -= 1
            self._starting.pop()
        if self.target > wanted:
            self._cluster.retire_replicas(self.target - wanted)
            self.target = wanted
            self.running.append((now, len(self._cluster.replicas)))
        self.history.append((now, wanted))

    def _started(self, at: float) -> None:
        if at in self._starting:
            self.settle()
            self._starting.remove(at)
            self._cluster.add_replicas(1)
            self.running.append((at, len(self._cluster.replicas)))


def direction_changes(history: list[tuple[float, int]]) -> int:
    """How often the number went the other way than before."""
    signs = [math.copysign(1, b - a) for (_, a), (_, b) in pairwise(history) if a != b]
    return sum(a != b for a, b in pairwise(signs))


def oracle_seconds(tokens: Sequence[float], rate: float, startup: float) -> float:
    """Replica-seconds of one that knows the load beforehand, `tokens` for every second: always just enough replicas of `rate` tokens
    per second, at least one. It decides so early that they are ready in time, and pays for each from then on, as anybody does."""
    needed = [max(1, math.ceil(each / rate - 1e-9)) for each in tokens]
    starts = sum(max(0, b - a) for a, b in pairwise(needed))
    return float(sum(needed) + starts * startup)
