"""A discrete-event model of the whole service: HAProxy, gateways, routing, batching, admission and autoscaling.

python -m loadtest.simulate --scenario ladder --seed 1 --out ladder.json
python -m loadtest.simulate calibrate       what batches, requests and chunks cost on this machine
python -m loadtest.simulate measure         two real replicas, to hold the prediction against

An event is a chunk's, not an input's: inputs of one request that travel together are one bundle. What decides is the service's own
code: `ReplicaSet` chooses replicas, `InputQueue` and its policy form chunks and batches, `TokenRate` measures, `Admission` refuses
and `decide` scales. What takes time is modelled:

- a gateway is one event loop. In a turn it works off what has arrived, at so many seconds a request, an input and a chunk, then
  sends what waits while there are slots. Its view of the replicas is its own, corrected by the replies to its own chunks only.
- a replica computes one batch at a time, in `overhead + tokens / rate`, of whatever waits.
- HAProxy serves in order on one thread, and takes the gateway with the fewest open requests.
- requests arrive at random moments (Poisson); a seed gives the same run every time.

Left out: deaths, retries and silence; deadlines; the cores that processes share; Serve's own routing in front of the pinned one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.report import describe_service_run, print_head, write_json
from loadtest.simulate_costs import CALIBRATION, DEVICES, GATEWAY, WIRE
from loadtest.simulate_elastic import day, overload, step
from loadtest.simulate_predict import MEASURED, measure, predict
from loadtest.simulate_report import print_rows
from loadtest.simulate_scaling import gateway_limit, ladder, routing

Scenario = Callable[[int], dict[str, Any]]

SCENARIOS: dict[str, tuple[Scenario, tuple[str, ...]]] = {
    "prediction": (
        predict,
        ("device", "offered", "rate_error", "measured.p50_ms", "predicted.p50_ms", "p50_error", "measured.p99_ms",
         "predicted.p99_ms", "p99_error"),
    ),
    "gateway": (
        gateway_limit,
        ("inputs_per_request", "requests_per_second", "inputs_per_second", "inputs_per_chunk", "gateways_for_a_million",
         "proxies_for_a_million"),
    ),
    "ladder": (
        ladder,
        ("replicas", "gateways", "proxies", "view", "offered", "inputs_per_second", "latency_ms.bulk.p50",
         "latency_ms.bulk.p99", "wait_ms.p99", "replica_utilization.mean", "gateway_utilization.mean",
         "proxy_utilization.highest", "inputs_per_chunk", "host.seconds", "host.events_per_second"),
    ),
    "routing": (
        routing,
        ("gateways", "policy", "latency_ms.query.p50", "latency_ms.query.p99", "latency_ms.document.p99",
         "replica_utilization.mean"),
    ),
    "step": (
        step,
        ("startup_seconds", "first_decision_seconds", "right_count_decided_seconds", "right_count_running_seconds",
         "highest_count", "right_count", "last_count", "direction_changes", "inputs_refused", "latency_ms.bulk.p99"),
    ),
    "day": (
        day,
        ("compression", "startup_seconds", "of_oracle", "of_full_oracle", "highest_count", "direction_changes",
         "latency_ms.bulk.p50", "latency_ms.bulk.p99", "inputs_refused", "host.seconds"),
    ),
    "overload": (
        overload,
        ("offered", "gateways", "inputs_per_second", "of_capacity", "latency_ms.bulk.p50", "latency_ms.bulk.p99",
         "refusal_ms.p99", "gateway_utilization.mean"),
    ),
}  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=f"scenarios: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("command", nargs="?", default="run", choices=("run", "calibrate", "measure"))
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeatable; all if none is named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of each load that calibrate and measure put on a service"
    )
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    options = parser.parse_args()
    if options.command == "calibrate":
        from loadtest.simulate_calibrate import calibrate

        write_json({**describe_service_run(), **calibrate(options.seconds)}, options.out or CALIBRATION)
        return
    if options.command == "measure":
        write_json({**describe_service_run(), "rows": measure(options.seconds)}, options.out or MEASURED)
        return
    report: dict[str, Any] = {**describe_service_run(), "seed": options.seed, "scenarios": {}}
    report["costs"] = {
        "gateway": asdict(GATEWAY),
        "wire": asdict(WIRE),
        "devices": {name: asdict(device) for name, device in DEVICES.items()},
    }
    print_head(report)
    for name in options.scenario or SCENARIOS:
        scenario, columns = SCENARIOS[name]
        began = time.perf_counter()
        found = scenario(options.seed)
        report["scenarios"][name] = found | {"wall_seconds": time.perf_counter() - began}
        print_rows(
            f"{name}: {found['what']} ({report['scenarios'][name]['wall_seconds']:.0f} s)", found["rows"], columns
        )
        sys.stdout.flush()
    write_json(report, options.out)


if __name__ == "__main__":
    main()
