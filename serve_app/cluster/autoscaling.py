"""How many Embedder replicas there should be: a pure policy, used alike by the cluster and the simulator.

One observation an interval goes in; a number of replicas, and the memory for the next call, come out. More are asked for
when the backlog has outgrown its target and stays so: as many as the work that *arrives* needs. The work already waiting
is left to the headroom of those replicas, started or starting, unless they would take too long over it. Fewer are asked
for when the highest need of the last minutes is less than what runs.

Only the standard library is imported here, nothing of the package: Serve pickles the policy by value into its controller,
which needn't have the package installed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# A backlog is to be worked off within so long, or as long as the headroom needs for what a start-up leaves behind.
DRAIN_SECONDS = 60.0
MAX_STARTUP_SECONDS = 600.0
# So near to the admission bound requests are refused, and the arrivals that are seen are too few.
NEAR_BOUND = 0.8
# How fast the measured capacity replaces the remembered one, while the replicas are full.
CAPACITY_SECONDS = 10.0
# Arrivals are averaged over so long, at most, before fewer replicas are thought of.
SLOW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One replica: tokens in its running batch, tokens that wait beside it, tokens per second of busy time (0: unknown).

    `arrived_per_second` is, over the last interval, what it computed plus the growth of what runs and waits there.
    """

    running_tokens: float
    queued_tokens: float
    tokens_per_second: float
    arrived_per_second: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at `time` (seconds): a load for each replica that reports, how many run and how many are wanted now.

    `held_back_tokens` wait in the gateways; `held_back_growth` is their change per second over the last interval.
    `waiting_requests` counts calls that wait for a replica; it matters when none runs.
    """

    time: float
    replicas: tuple[ReplicaLoad, ...]
    running_replicas: int
    target_replicas: int
    held_back_tokens: float = 0.0
    held_back_growth: float = 0.0
    waiting_requests: float = 0.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """The settings' `autoscaling` section; how many to start with; and admission's bound, near which arrivals are refused."""

    max_replicas: int
    min_replicas: int = 1
    initial_replicas: int = 0
    target_backlog_seconds: float = 1.0
    target_utilization: float = 0.8
    interval_seconds: float = 1.0
    upscale_delay_seconds: float = 2.0
    downscale_delay_seconds: float = 300.0
    downscale_to_zero_delay_seconds: float = 600.0
    max_wait_seconds: float = math.inf


# Values with the times they were seen at, oldest first.
Trail = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves for the next.

    `capacity`: tokens per second of one full replica; `arrived`: arrivals, tokens per second; `arrived_slowly`: their long
    average; `peak`: their confirmed highest since the replicas are full; `more`: how many the backlog asked for; `fewer`:
    how many were enough, but only those that may still be the highest; `busy_at`: when there last was work.
    """

    time: float
    capacity: float = 0.0
    arrived: Trail = ()
    arrived_slowly: float = 0.0
    peak: float = 0.0
    more: Trail = ()
    fewer: Trail = ()
    busy_at: float = 0.0
    starting_since: float | None = None
    startup_seconds: float = 0.0


def decide(seen: Observation, parameters: Parameters, memory: Memory | None = None) -> tuple[int, Memory]:
    """The number of replicas to have, between the bounds, and the memory for the next call, one interval later."""
    now, target = seen.time, seen.target_replicas
    if memory is None or not seen.running_replicas:
        # Nobody has measured anything, or nobody measures any more: the number stays for the whole delay.
        if memory is None:
            target = max(target, parameters.initial_replicas)
        elif seen.waiting_requests:
            target = max(1, target)
        known = memory.capacity if memory else 0.0
        memory = Memory(now, known, more=((now, 0),), fewer=((now, target),), busy_at=now)
        if not seen.running_replicas or target > seen.target_replicas:
            return _bounded(target, parameters), memory
    memory = _observe(seen, parameters, memory)
    if parameters.min_replicas == 0 and now - memory.busy_at >= parameters.downscale_to_zero_delay_seconds:
        return 0, memory
    if not memory.capacity:
        return _bounded(target, parameters), memory
    more = _needed_for_backlog(seen, parameters, memory)
    asked = _since((*memory.more, (now, more)), now - _confirmation(seen, parameters, memory))
    more = math.floor(min(value for _, value in asked))
    fewer = max(more, _enough(seen, parameters, memory))
    highest = (*(entry for entry in memory.fewer if entry[1] > fewer), (now, fewer))
    highest = tuple(entry for entry in highest if entry[0] >= now - parameters.downscale_delay_seconds)
    wanted = more if more > target else min(target, math.ceil(highest[0][1]))
    return _bounded(wanted, parameters), replace(memory, more=asked, fewer=highest)


def _observe(seen: Observation, parameters: Parameters, memory: Memory) -> Memory:
    """The memory with this observation in it."""
    now, elapsed = seen.time, max(0.0, seen.time - memory.time)
    memory = replace(memory, time=now, capacity=_capacity(seen, parameters, memory, elapsed))
    arrived = max(0.0, sum(load.arrived_per_second for load in seen.replicas) + seen.held_back_growth)
    before = memory.arrived[-1][1] if memory.arrived else 0.0
    window = _window(seen, parameters, memory)
    oldest = now - window + parameters.interval_seconds / 2
    slow = max(min(SLOW_SECONDS, parameters.downscale_delay_seconds / 4), 2 * window)
    starting = seen.target_replicas > seen.running_replicas
    since = memory.starting_since
    return replace(
        memory,
        arrived=(*(entry for entry in memory.arrived if entry[0] > oldest), (now, arrived)),
        arrived_slowly=memory.arrived_slowly + (1 - math.exp(-elapsed / slow)) * (arrived - memory.arrived_slowly),
        peak=max(memory.peak, min(arrived, before)) if _is_full(seen, parameters, memory) else 0.0,
        # Without any report it isn't known whether there's work.
        busy_at=now if arrived or _backlog(seen) or not seen.replicas else memory.busy_at,
        starting_since=(now if since is None else since) if starting else None,
        startup_seconds=memory.startup_seconds if starting or since is None else now - since,
    )


def _capacity(seen: Observation, parameters: Parameters, memory: Memory, elapsed: float) -> float:
    """Tokens per second of a full replica: the highest seen, as small batches are slower; the latest while all are full."""
    rates = [load.tokens_per_second for load in seen.replicas if load.tokens_per_second > 0]
    if not rates:
        return memory.capacity
    rate = sum(rates) / len(rates)
    weight = 1 - math.exp(-elapsed / CAPACITY_SECONDS) if memory.capacity and _is_full(seen, parameters, memory) else 0
    return max(rate, memory.capacity + weight * (rate - memory.capacity))


def _needed_for_backlog(seen: Observation, parameters: Parameters, memory: Memory) -> int:
    """Replicas for what arrives, if there's more waiting than there should be; else 0."""
    if not _is_full(seen, parameters, memory):
        return 0
    capacity, backlog = memory.capacity, _backlog(seen)
    together = capacity * seen.running_replicas
    arrived = sum(value for _, value in memory.arrived) / len(memory.arrived)
    refusing = backlog >= NEAR_BOUND * parameters.max_wait_seconds * together and arrived >= NEAR_BOUND * together
    if refusing:
        arrived = max(arrived, memory.peak)
    startup = memory.startup_seconds
    if memory.starting_since is not None:
        startup = max(startup, seen.time - memory.starting_since)
    headroom = max(0.1, 1 - parameters.target_utilization)
    patience = max(DRAIN_SECONDS, min(startup, MAX_STARTUP_SECONDS) / headroom)
    needed = max(arrived / parameters.target_utilization, arrived + backlog / patience) / capacity
    # What is refused could be any amount; but first see what those do that are still starting.
    return max(_ceil(needed), 2 * seen.running_replicas if refusing and memory.starting_since is None else 0)


def _enough(seen: Observation, parameters: Parameters, memory: Memory) -> int:
    """Replicas that would do for what arrives in the long run, and for what waits now."""
    steady = memory.arrived_slowly / (memory.capacity * parameters.target_utilization)
    waiting = _waiting(seen) / (memory.capacity * parameters.target_backlog_seconds)
    return max(1, _ceil(steady), min(seen.target_replicas, _ceil(waiting)))


def _is_full(seen: Observation, parameters: Parameters, memory: Memory) -> bool:
    """Whether the backlog is over its target, and not only because a batch takes long: there no other replica can help."""
    together = memory.capacity * seen.running_replicas
    return _waiting(seen) > 0 and _backlog(seen) > parameters.target_backlog_seconds * together


def _waiting(seen: Observation) -> float:
    return seen.held_back_tokens + sum(load.queued_tokens for load in seen.replicas)


def _backlog(seen: Observation) -> float:
    return _waiting(seen) + sum(load.running_tokens for load in seen.replicas)


def _window(seen: Observation, parameters: Parameters, memory: Memory) -> float:
    """Seconds to average arrivals over: an interval, or two batches if longer, since work comes in lumps of that size."""
    largest = max((load.running_tokens for load in seen.replicas), default=0.0)
    return max(parameters.interval_seconds, 2 * largest / memory.capacity if memory.capacity else 0.0)


def _confirmation(seen: Observation, parameters: Parameters, memory: Memory) -> float:
    """Seconds for which more must be needed: two windows at least, since a single burst fills one."""
    return max(parameters.upscale_delay_seconds, 2 * _window(seen, parameters, memory))


def _since(trail: Trail, time: float) -> Trail:
    """The values from `time` on, and the one that held at `time`."""
    first = max((i for i, (at, _) in enumerate(trail) if at <= time), default=0)
    return trail[first:]


def _ceil(value: float) -> int:
    return math.ceil(value - 1e-3)


def _bounded(wanted: int, parameters: Parameters) -> int:
    return max(parameters.min_replicas, min(parameters.max_replicas, wanted))
