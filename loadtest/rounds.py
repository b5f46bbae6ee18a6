"""Interleaved rounds of load on several services, and their summary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

from loadtest.load_client import MOST_REQUESTS_PER_SECOND, Plan, Round, drive
from loadtest.replies import Reference, WrongReplyError, check_samples
from loadtest.report import percentile, spread
from loadtest.workload import Workload


@dataclass(frozen=True)
class Target:
    """A service to load. `pids` tells its processes by what they do, for their CPU seconds; it may be empty. `connections` are as
    many as the schedule says, unless set here."""

    name: str
    url: str
    model: str
    pids: Callable[[], dict[str, list[int]]] = dict
    connections: int | None = None


@dataclass(frozen=True)
class Schedule:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 8.0
    warm_seconds: float = 1.0
    first_warm_seconds: float = 4.0
    connections: int = 32


def run_rounds(
    targets: list[Target], workloads: list[Workload], schedule: Schedule, engine: Reference
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Load every target with every workload in turn, round by round, each round in another order, the others
    idle meanwhile. Raises `WrongReplyError` for any request that failed or was answered wrongly."""
    results: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    first = 0
    # The load generator is one process for the whole run, so that it's warm as well.
    with ProcessPoolExecutor(1, get_context("spawn")) as generator:

        def load(target: Target, workload: Workload, seconds: float) -> Round:
            nonlocal first
            plan = Plan(
                target.url,
                target.model,
                workload,
                first,
                target.connections or schedule.connections,
                schedule.warm_seconds,
                seconds,
                pids=target.pids(),
            )
            first += int((plan.warm_seconds + plan.seconds) * MOST_REQUESTS_PER_SECOND) + 1
            done = generator.submit(drive, plan).result()
            if done.errors:
                raise WrongReplyError(f"{target.name}: {len(done.errors)} errors, the first: {done.errors[0]}")
            return done

        for target in targets:
            for workload in workloads:
                load(target, workload, schedule.first_warm_seconds)
        for number in range(schedule.rounds):
            for workload in workloads:
                turn = number % len(targets)
                for target in targets[turn:] + targets[:turn]:
                    done = load(target, workload, schedule.seconds)
                    cosine = check_samples(done.samples, workload, engine)
                    row = round_of(done, cosine)
                    results[workload.name, target.name].append(row)
                    print(
                        f"round {number + 1} {workload.name:8}{target.name:12}"
                        f"{row['requests_per_second']:8.1f} requests/s  p99 {row['p99_ms']:8.1f} ms",
                        flush=True,
                    )
    return dict(results)


def round_of(done: Round, cosine: float) -> dict[str, Any]:
    """One round's figures."""
    latencies_ms = [1e3 * seconds for seconds in done.latencies]
    return {
        "requests": len(latencies_ms),
        "seconds": done.seconds,
        "requests_per_second": len(latencies_ms) / done.seconds,
        "p50_ms": percentile(latencies_ms, 50),
        "p99_ms": percentile(latencies_ms, 99),
        "cpu_us_per_request": {name: 1e6 * cpu / done.requests for name, cpu in done.cpu_seconds.items()},
        "samples_checked": len(done.samples),
        "lowest_cosine": cosine,
    }


def summarize(results: dict[tuple[str, str], list[dict[str, Any]]], ours: str) -> list[dict[str, Any]]:
    """One row per workload and target. `ours_is` holds, round by round, our requests a second over theirs and
    our p99 over theirs."""
    rows = []
    for (workload, target), rounds in results.items():
        mine = results[workload, ours]
        groups = {name for each in rounds for name in each["cpu_us_per_request"]}
        cpu = {name: median(each["cpu_us_per_request"].get(name, 0.0) for each in rounds) for name in sorted(groups)}
        rows.append(
            {
                "workload": workload,
                "target": target,
                **{key: spread([each[key] for each in rounds]) for key in ("requests_per_second", "p50_ms", "p99_ms")},
                "ours_is": {
                    key: spread([m[key] / each[key] for m, each in zip(mine, rounds, strict=True)])
                    for key in ("requests_per_second", "p99_ms")
                },
                "cpu_us_per_request": cpu,
                "rounds": rounds,
            }
        )
    return rows
