"""Serve's side of autoscaling: what replicas publish, read into an observation, and the decision handed back.

Serve calls the policy in its controller ten times a second; it decides once an interval. The delays are the policy's own: Serve's are
set to zero, because they look at the latest wish only, however short.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ray import cloudpickle
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from serve_app.cluster import autoscaling
from serve_app.cluster.autoscaling import Memory, Observation, Parameters, ReplicaLoad, decide
from serve_app.config import Settings

logger = logging.getLogger("ray.serve")

# What a replica publishes: tokens running, waiting and ever computed there, tokens per busy second, and what the gateways hold back.
RUNNING = "running_tokens"
QUEUED = "queued_tokens"
COMPUTED = "computed_tokens"
RATE = "tokens_per_second"
HELD_BACK = "held_back_tokens"

# Serve's control loop runs every 0.1 s: this much early is still once an interval.
TICK_SECONDS = 0.1
# How many intervals of a replica's history the controller gets to see.
INTERVALS_KEPT = 3


class Point(Protocol):
    """One published value. `timestamp` is the replica's own clock, in seconds."""

    timestamp: float
    value: float


class Context(Protocol):
    """The part of `ray.serve.config.AutoscalingContext` that is read here; metrics are by name and replica, oldest first."""

    current_time: float
    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    policy_state: dict[str, object]

    @property
    def raw_metrics(self) -> Mapping[str, Mapping[object, Sequence[Point]]] | None: ...

    @property
    def total_num_requests(self) -> float: ...


class BacklogPolicy:
    """`decide` as a Serve deployment's policy; `parameters` are those of `Parameters`."""

    def __init__(self, **parameters: float) -> None:
        self._parameters = Parameters(**parameters)  # type: ignore[arg-type]

    def __call__(self, context: Context) -> tuple[int, dict[str, object]]:
        """The number of replicas to have, and the state that Serve keeps for the next call."""
        memory = context.policy_state.get("memory")
        assert memory is None or isinstance(memory, Memory)
        interval = self._parameters.interval_seconds
        if memory is not None and 0 <= context.current_time - memory.time < interval - TICK_SECONDS / 2:
            return context.target_num_replicas, {"memory": memory}
        bounds = replace(
            self._parameters,
            min_replicas=context.capacity_adjusted_min_replicas,
            max_replicas=context.capacity_adjusted_max_replicas,
        )
        seen = observe(context, interval)
        wanted, memory = decide(seen, bounds, memory)
        if wanted != seen.target_replicas:
            logger.info("Autoscaling from %d to %d: %s", seen.target_replicas, wanted, summary(seen))
        return wanted, {"memory": memory}


def observe(context: Context, interval: float) -> Observation:
    """What the replicas published, as of now."""
    metrics = context.raw_metrics or {}
    loads, held, held_before = [], [0.0], [0.0]
    for replica, rates in metrics.get(RATE, {}).items():
        running, queued, computed, held_back = (
            metrics.get(name, {}).get(replica, ()) for name in (RUNNING, QUEUED, COMPUTED, HELD_BACK)
        )
        if not (rates and running and queued and computed and held_back):
            continue
        arrived = sum(_growth(points, interval) for points in (running, queued, computed))
        loads.append(ReplicaLoad(running[-1].value, queued[-1].value, rates[-1].value, arrived))
        held.append(held_back[-1].value)
        held_before.append(_before(held_back, interval))
    return Observation(
        time=context.current_time,
        replicas=tuple(loads),
        running_replicas=context.current_num_replicas,
        target_replicas=context.target_num_replicas,
        # Each replica has heard of it at another time, and one that just started not yet: that must not look like growth.
        held_back_tokens=max(held),
        held_back_growth=(max(held) - max(held_before)) / interval,
        waiting_requests=context.total_num_requests,
    )


def summary(seen: Observation) -> str:
    """What a decision was made of, for the log."""
    waiting = seen.held_back_tokens + sum(load.queued_tokens + load.running_tokens for load in seen.replicas)
    arrived = seen.held_back_growth + sum(load.arrived_per_second for load in seen.replicas)
    rate = sum(load.tokens_per_second for load in seen.replicas)
    return (
        f"{seen.running_replicas} run and do {rate:.0f} tokens/s when busy, {arrived:.0f} tokens/s arrive, "
        f"{waiting:.0f} tokens wait or run"
    )


def _growth(points: Sequence[Point], interval: float) -> float:
    """Change per second over the last interval; of what has been published for less, as if it had been steady before."""
    return (points[-1].value - _before(points, interval)) / interval


def _before(points: Sequence[Point], interval: float) -> float:
    """The value an interval before the last one, between the two published around that time; the first if there is none before."""
    then = points[-1].timestamp - interval
    if points[0].timestamp >= then:
        return points[0].value
    later = next(i for i, point in enumerate(points) if point.timestamp >= then)
    before, after = points[later - 1], points[later]
    share = (then - before.timestamp) / (after.timestamp - before.timestamp)
    return before.value + share * (after.value - before.value)


def embedder_count(settings: Settings) -> dict[str, int | AutoscalingConfig]:
    """The options of `serve.deployment` that say how many Embedders there are."""
    if settings.autoscaling.max_replicas is None:
        return {"num_replicas": settings.replicas}
    return {"autoscaling_config": _autoscaling_config(settings.autoscaling.max_replicas, settings)}


def _autoscaling_config(max_replicas: int, settings: Settings) -> AutoscalingConfig:
    scaling = settings.autoscaling
    # The controller needn't have this package installed, so what it runs travels by value.
    cloudpickle.register_pickle_by_value(autoscaling)
    try:
        with warnings.catch_warnings():
            # Announced to go, but the environment variables that are to replace it aren't read by anything yet.
            warnings.filterwarnings("ignore", message=".*metrics_interval_s", category=DeprecationWarning)
            return AutoscalingConfig(
                min_replicas=scaling.min_replicas,
                # At every redeployment Serve goes back to this number, whatever the load. So it only stands here where nothing
                # else would start the pool, and be seen to fail; the policy's own applies once, and only upwards.
                initial_replicas=None if scaling.min_replicas else settings.replicas,
                max_replicas=max_replicas,
                metrics_interval_s=scaling.interval_seconds,
                look_back_period_s=INTERVALS_KEPT * scaling.interval_seconds,
                upscale_delay_s=0,
                downscale_delay_s=0,
                downscale_to_zero_delay_s=0,
                policy=AutoscalingPolicy(
                    policy_function=BacklogPolicy,
                    policy_kwargs={
                        **scaling.model_dump(),
                        "initial_replicas": settings.replicas,
                        "max_wait_seconds": settings.admission.max_wait_seconds,
                    },
                ),
            )
    finally:
        cloudpickle.unregister_pickle_by_value(autoscaling)
