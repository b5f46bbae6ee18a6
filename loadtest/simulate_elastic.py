"""Scenarios of change: a step, a day, and far more than can be served."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from loadtest.simulate_autoscaler import Autoscaler, Timing, direction_changes, oracle_seconds
from loadtest.simulate_cluster import Cluster, Layout
from loadtest.simulate_costs import DEVICES, Device
from loadtest.simulate_report import result
from loadtest.simulate_scaling import gateways_for, proxies_for
from loadtest.simulate_work import Traffic
from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.autoscaling import Parameters
from serve_app.cluster.cluster_backlog import ClusterBacklog
from serve_app.cluster.replicas import ReplicaSet
from serve_app.config import AdmissionSettings, AutoscalingSettings
from serve_app.errors import OverloadedError

SCALING = AutoscalingSettings()
ADMISSION = AdmissionSettings()
REQUEST_INPUTS, TOKENS = 64, 64
MAX_REPLICAS = 64
STEP_UNIT = 0.7  # below the target utilisation, so that neither count is a close call


def admit(cluster: Cluster, settings: AdmissionSettings = ADMISSION) -> None:
    """Put the service's own admission in front of every gateway's queue. The views must be `ReplicaSet`."""
    bounds = Bounds(settings.max_wait_seconds, settings.max_gateway_tokens, settings.max_cluster_tokens)
    for gateway in cluster.gateways:
        view = gateway.view
        assert isinstance(view, ReplicaSet)
        backlog = ClusterBacklog(view, gateway.clock)
        admission = Admission(bounds, cluster.layout.chunk_tokens, cluster.choices.random)

        def admitted(
            admission: Admission = admission, backlog: ClusterBacklog = backlog, queue: Any = gateway.queue
        ) -> bool:
            try:
                admission.check(backlog.with_own(queue.tokens))
            except OverloadedError:
                return False
            return True

        gateway.admit, gateway.hear = admitted, backlog.hear


def parameters(highest: int = MAX_REPLICAS) -> Parameters:
    """The settings' defaults."""
    return Parameters(
        max_replicas=highest,
        max_wait_seconds=ADMISSION.max_wait_seconds,
        **SCALING.model_dump(exclude={"max_replicas"}),
    )


def step(
    seed: int, startups: Sequence[float] = (2.0, 10.0, 60.0), times: float = 8.0, device: Device = DEVICES["l4"]
) -> dict[str, Any]:
    """1x for two minutes, `times` that for five, 1x again until the replicas have gone; 1x is `STEP_UNIT` of a replica's rate."""
    rows = []
    rate = _request_rate(device) * STEP_UNIT
    up, down, end = 120.0, 420.0, 420.0 + 2 * SCALING.downscale_delay_seconds + 120.0
    right = math.ceil(times * STEP_UNIT / SCALING.target_utilization)
    for startup in startups:
        traffic = Traffic("bulk", lambda t: rate * (times if up <= t < down else 1.0), REQUEST_INPUTS, TOKENS, TOKENS)
        cluster = Cluster(_layout(device, rate * times), [traffic], seed)
        admit(cluster)
        scaler = Autoscaler(cluster, parameters(), Timing(startup))
        cluster.run(end)
        scaler.settle()
        rising = [(t, n) for t, n in scaler.history if up <= t <= down]
        full = [t for t, n in rising if n >= right]
        rows.append(
            {
                "startup_seconds": startup,
                "first_decision_seconds": rising[0][0] - up if rising else None,
                "right_count_decided_seconds": full[0] - up if full else None,
                "right_count_running_seconds": next((t - up for t, n in scaler.running if n >= right), None),
                "highest_count": max(n for _, n in scaler.history),
                "right_count": right,
                "last_count": scaler.target,
                "direction_changes": direction_changes(scaler.history),
                "history": scaler.history,
                **result(cluster),
            }
        )
    return {"what": f"1x to {times:g}x to 1x", "rows": rows}


def day_load(seed: int, seconds: float, highest: float, lowest: float = 0.1) -> list[float]:
    """Requests a second at every second of a day pressed into `seconds`: a night, a morning rise, a dip at noon, an evening, and
    noise of a few minutes' length."""
    random, noise, loads = Random(seed), 0.0, []
    for second in range(int(seconds)):
        hour = 24 * second / seconds
        if second % 300 == 0:
            noise = 0.7 * noise + random.gauss(0, 0.05)
        shape = 0.5 - 0.5 * math.cos(2 * math.pi * (hour - 3) / 24)
        dip = 0.2 * math.exp(-((hour - 12.5) ** 2))
        loads.append(highest * max(lowest, lowest + (1 - lowest) * (shape - dip)) * max(0.5, 1 + noise))
    return loads


def day(
    seed: int,
    compressions: Sequence[float] = (1.0, 8.0),
    startups: Sequence[float] = (10.0, 60.0),
    highest: float = 12.0,
    device: Device = DEVICES["l4"],
) -> dict[str, Any]:
    """A day that needs up to `highest` replicas, in real length and compressed; the delays aren't compressed with it. The work
    comes in requests of one full chunk. Replica-seconds are held against those of an oracle that plans
    with the same target utilisation, and of one whose replicas are always full."""
    rows = []
    inputs = 256
    rate = device.full_rate(TOKENS) * TOKENS
    requests = rate / (inputs * TOKENS) * SCALING.target_utilization
    for compression in compressions:
        seconds = 86_400 / compression
        loads = day_load(seed, seconds, highest * requests)
        for startup in startups:
            traffic = Traffic("bulk", lambda t: loads[min(int(t), len(loads) - 1)], inputs, TOKENS, TOKENS)  # noqa: B023
            cluster = Cluster(_layout(device, highest * requests * 1.3, inputs), [traffic], seed)
            admit(cluster)
            scaler = Autoscaler(cluster, parameters(), Timing(startup))
            cluster.run(seconds)
            scaler.settle()
            work = [each * inputs * TOKENS for each in loads]
            oracle, full = (oracle_seconds(work, rate * share, startup) for share in (SCALING.target_utilization, 1.0))
            rows.append(
                {
                    "compression": compression,
                    "startup_seconds": startup,
                    "replica_seconds": scaler.replica_seconds,
                    "of_oracle": scaler.replica_seconds / oracle,
                    "of_full_oracle": scaler.replica_seconds / full,
                    "direction_changes": direction_changes(scaler.history),
                    "highest_count": max(n for _, n in scaler.history),
                    **result(cluster),
                }
            )
    return {"what": f"a day from {highest * 0.1:g} to {highest:g} replicas' worth of work", "rows": rows}


def overload(
    seed: int, replicas: int = 8, times: Sequence[float] = (0.7, 1.0, 2.0, 10.0), seconds: float = 60.0
) -> dict[str, Any]:
    """A minute of more than the devices can do, with the service's admission bound."""
    device, rows = DEVICES["l4"], []
    rate = _request_rate(device) * replicas
    for factor in times:
        traffic = Traffic("bulk", rate * factor, REQUEST_INPUTS, TOKENS, TOKENS)
        layout = _layout(device, rate * factor, replicas=replicas)
        cluster = Cluster(layout, [traffic], seed, warm=seconds / 3)
        admit(cluster)
        cluster.run(seconds)
        row = {"offered": factor, **result(cluster)}
        row["of_capacity"] = row["inputs_per_second"] / (rate * REQUEST_INPUTS)
        rows.append(row)
    return {
        "what": f"{replicas} replicas, {REQUEST_INPUTS} inputs a request, {ADMISSION.max_wait_seconds:g} s admitted",
        "rows": rows,
    }


def _request_rate(device: Device, inputs: int = REQUEST_INPUTS) -> float:
    """Requests a second that one replica can do."""
    return device.full_rate(TOKENS) / inputs


def _layout(device: Device, requests: float, inputs: int = REQUEST_INPUTS, replicas: int = 1) -> Layout:
    return Layout(device, replicas, max(2, gateways_for(requests, inputs)), proxies_for(requests))
