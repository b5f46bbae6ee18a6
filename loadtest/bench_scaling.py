"""How throughput grows with replicas, and with gateways.

python -m loadtest.bench_scaling --out loadtest/results/scaling.json

- replicas: one service with one Embedder replica and one with four, each replica an emulated device of stated rate
  (`loadtest.emulated`); gateways, Ray and the batcher are the product's. One gateway each. Both run all the time and are loaded in
  turn, round by round, over keep-alive connections that always have one request under way, as many per replica in both.
- gateways: one service with one Gateway and one with two; the devices take no time at all, so that the gateways are what saturates, as
  long as the cores last. CPU time is told per group of processes, and how many cores were busy.
- rationed gateways: the same with each gateway held to a quarter of a core, so that two of them don't need more than a small machine
  has beside everything else. It shows what the software allows where the cores do.

Sampled replies are compared with the vectors that the emulated device must give: a wrong one ends the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.bench_http import goal, pids
from loadtest.emulated import EmulatedVectors
from loadtest.ration import rationed
from loadtest.replies import WrongReplyError
from loadtest.report import describe_service_run, figure, print_head, spread, table, write_json
from loadtest.rounds import Schedule, Target, run_rounds, summarize
from loadtest.running import emulated
from loadtest.workload import SHORT
from serve_app.types import DEMO_MODEL_ID

TIMES_ONE_REPLICA, TIMES_ONE_GATEWAY = 3.8, 1.8
# Small batches, so that what a round counts doesn't depend on whether one more ended within it.
DEVICE = {"device.batch_seconds": 0.005, "device.inputs_per_second": 100}
BATCH = {"dispatch.chunk_inputs": 16, "batch.max_inputs": 16}
CONNECTIONS_PER_REPLICA = 48  # two chunks under way and one waiting
CONNECTIONS_PER_GATEWAY = 48
GATEWAY_SHARE = 0.25


@dataclass(frozen=True)
class Comparison:
    """Two services, the many and the one: settings, connections, the ratio wanted, and the gateways' share of a core, if limited."""

    names: tuple[str, str]
    settings: tuple[dict[str, object], dict[str, object]]
    connections: tuple[int, int]
    wanted: float
    gateway_share: float | None = None


def comparisons(replicas: int) -> dict[str, Comparison]:
    """What can be compared, by name."""

    def with_replicas(count: int) -> dict[str, object]:
        return {**DEVICE, **BATCH, "replicas": count, "num_cpus": 0.1}

    def with_gateways(count: int) -> dict[str, object]:
        return {"replicas": 2, "gateways": count, "num_cpus": 0.1, "gateway_num_cpus": 0.1}

    gateways = Comparison(
        ("2 gateways", "1 gateway"),
        (with_gateways(2), with_gateways(1)),
        (2 * CONNECTIONS_PER_GATEWAY, CONNECTIONS_PER_GATEWAY),
        TIMES_ONE_GATEWAY,
    )
    return {
        "replicas": Comparison(
            (f"{replicas} replicas", "1 replica"),
            (with_replicas(replicas), with_replicas(1)),
            (replicas * CONNECTIONS_PER_REPLICA, CONNECTIONS_PER_REPLICA),
            TIMES_ONE_REPLICA,
        ),
        "gateways": gateways,
        "rationed gateways": replace(gateways, gateway_share=GATEWAY_SHARE),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The comparisons asked for, one after the other."""
    report: dict[str, Any] = {**describe_service_run(), "load_before": os.getloadavg(), "comparisons": {}, "goals": []}
    schedule = Schedule(options.rounds, options.seconds)
    report["schedule"] = asdict(schedule)
    for name, comparison in comparisons(options.replicas).items():
        if name in (options.only or [name]):
            found = report["comparisons"][name] = compare(comparison, schedule)
            ratio = found["times_one"]["median"]
            report["goals"].append(goal(f"{name}: inputs/s, times one's", ratio, at_least=comparison.wanted))
    return report


def compare(comparison: Comparison, schedule: Schedule) -> dict[str, Any]:
    """Both services at once, loaded in turn."""
    targets, gateways = [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedserve-bench-")))
        for name, settings, connections in zip(
            comparison.names, comparison.settings, comparison.connections, strict=True
        ):
            service = stack.enter_context(emulated(folder / f"{name}.log", settings))
            targets.append(Target(name, service.url, DEMO_MODEL_ID, partial(pids, service), connections))
            gateways += service.groups()["gateway"]
        if comparison.gateway_share is not None:
            stack.enter_context(rationed(gateways, comparison.gateway_share))
        results = run_rounds(targets, [SHORT], schedule, EmulatedVectors())
    rows = summarize(results, comparison.names[0])
    for row in rows:
        row["busy_cores"] = spread([cores(each) for each in row["rounds"]])
    ratios = next(row["ours_is"] for row in rows if row["target"] == comparison.names[1])
    return {**asdict(comparison), "times_one": ratios["requests_per_second"], "results": rows}


def cores(measured: Mapping[str, Any]) -> float:
    """CPU seconds a second in one round, of all the service's processes and the load generator."""
    return float(sum(measured["cpu_us_per_request"].values()) * measured["requests_per_second"] / 1e6)


def print_report(report: dict[str, Any]) -> None:
    """The tables."""
    print()
    print_head(report)
    print(f"load      {report['load_before'][0]:.2f} before the run")
    for name, found in report["comparisons"].items():
        for settings in found["settings"]:
            print(f"\n{name}: {settings}", end="")
        print()
        print(table([name, "inputs/s", "p50 ms", "p99 ms", "busy cores", "CPU us per request"], _rows(found)))
        print(f"times one: {figure(found['times_one'], 2)}")
    print()
    verdicts = [
        [g["goal"], g["wanted"], f"{g['measured']:.2f}", "met" if g["met"] else "MISSED"] for g in report["goals"]
    ]
    print(table(["goal", "wanted", "measured", ""], verdicts))


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for row in found["results"]:
        parts = sorted(row["cpu_us_per_request"].items(), key=lambda item: -item[1])
        figures = [figure(row[key]) for key in ("requests_per_second", "p50_ms", "p99_ms")]
        cpu = ", ".join(f"{name} {us:.0f}" for name, us in parts)
        rows.append([row["target"], *figures, figure(row["busy_cores"], 2), cpu])
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured seconds of a round")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--only", action="append", choices=["replicas", "gateways", "rationed gateways"])
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    options = parser.parse_args()
    try:
        report = measure(options)
    except WrongReplyError as error:
        sys.exit(f"wrong reply: {error}")
    print_report(report)
    write_json(report, options.out)


if __name__ == "__main__":
    main()
