"""Ten times the load that the devices can do, for a minute.

python -m loadtest.bench_overload --out loadtest/results/overload.json
python -m loadtest.bench_overload --retries --times 3 --rounds 1 --out loadtest/results/overload_retries.json

Two Embedder replicas with an emulated device of 25 inputs a second each (`loadtest.emulated`), two gateways, one ~36-token text a
request. Each round:

- full batches: as many connections as fill a running and a waiting batch at each replica, each with one request under way. Its
  goodput is the peak, its p99 what the others are measured by.
- calm, overload, calm: requests at random moments (open loop) at half the peak, at `--times` the peak, and at half again; `/health`
  is asked all the time. With `--retries` every caller tries again when the `openai` client would.

All accepted replies are compared with the vectors that the emulated device must give: a wrong one ends the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from loadtest.bench_http import goal, pids
from loadtest.emulated import EmulatedVectors
from loadtest.load_client import Plan, drive
from loadtest.open_loop import OpenPlan, drive_open
from loadtest.openai_retries import openai_retry_delay
from loadtest.overload import SETTLE_SECONDS, MemoryWatch, Phases, figures
from loadtest.replies import WrongReplyError, check_samples
from loadtest.report import describe_service_run, figure, percentile, print_head, spread, table, write_json
from loadtest.running import Running, emulated
from loadtest.workload import MEDIUM
from serve_app.types import DEMO_MODEL_ID

REPLICAS = 2
TOKENS_PER_SECOND = 900  # 25 inputs
CHUNK_TOKENS = 256  # 7 inputs, 0.28 s
SETTINGS: dict[str, object] = {
    "replicas": REPLICAS,
    "gateways": 2,
    "num_cpus": 0.1,
    "gateway_num_cpus": 0.1,
    "device.tokens_per_second": TOKENS_PER_SECOND,
    "dispatch.chunk_tokens": CHUNK_TOKENS,
    "batch.max_tokens": CHUNK_TOKENS,
}
# A batch running and one waiting at each replica.
FULL_CONNECTIONS = 2 * REPLICAS * (CHUNK_TOKENS // 36)
TEXTS_PER_ROUND = 200_000
GOODPUT, TIMES_P99, REFUSED_MS, RECOVERY_SECONDS = 0.95, 3.0, 100.0, 5.0
GROWTH_MB = 3.0  # a minute, of all gateways together


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds on one service."""
    report: dict[str, Any] = {**describe_service_run(), "load_before": os.getloadavg()}
    settings = {**SETTINGS, "admission.max_wait_seconds": options.max_wait}
    report["settings"], report["times"], report["retries"] = settings, options.times, options.retries
    with (
        tempfile.TemporaryDirectory(prefix="embedserve-bench-") as folder,
        emulated(Path(folder) / "up.log", settings) as service,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        full(service, pool, 0, 4.0)  # warms everything up
        report["rounds"] = [one_round(service, pool, number, options) for number in range(1, options.rounds + 1)]
    report["figures"] = {
        "peak_per_second": spread([each["full"]["per_second"] for each in report["rounds"]]),
        "full_p99_ms": spread([each["full"]["p99_ms"] for each in report["rounds"]]),
        "goodput_of_peak": spread([each["goodput_of_peak"] for each in report["rounds"]]),
        "accepted_p99_ms": spread([each["accepted"]["p99_ms"] for each in report["rounds"]]),
        "accepted_p99_of_full": spread([each["accepted_p99_of_full"] for each in report["rounds"]]),
        "refused_p99_ms": spread([each["refused"].get("p99_ms", 0.0) for each in report["rounds"]]),
        "health_p99_ms": spread([each["health"]["p99_ms"] for each in report["rounds"]]),
        "health_failed": spread([each["health_failed"] for each in report["rounds"]]),
        "gateway_mb": spread([each["memory"]["gateway"]["last_mb"] for each in report["rounds"]]),
        "recovery_seconds": spread([each["recovery_seconds"] for each in report["rounds"]]),
        "tries_per_request": spread([each["tries_per_request"] for each in report["rounds"]]),
    }
    found = {name: values["median"] for name, values in report["figures"].items()}
    report["goals"] = [
        goal("goodput, of the peak", found["goodput_of_peak"], at_least=GOODPUT),
        goal("accepted p99, times that at full batches", found["accepted_p99_of_full"], at_most=TIMES_P99),
        goal("refused p99, ms", found["refused_p99_ms"], at_most=REFUSED_MS),
        goal("recovery, s", found["recovery_seconds"], at_most=RECOVERY_SECONDS),
    ]
    if options.rounds > 1:
        report["gateway_growth"] = growth(
            [each["memory"]["gateway"]["last_mb"] for each in report["rounds"]], options.seconds
        )
        report["goals"].append(
            goal("gateways' memory, MB a minute of overload", report["gateway_growth"], at_most=GROWTH_MB)
        )
    return report


def growth(megabytes: Sequence[float], seconds: float) -> float:
    """Megabytes a minute of overload, from the end of the first round's to the end of the last's; of two rounds or more.

    The first one fills pools and queues, and the collector's, once. What goes on growing after it is a leak.
    """
    return (megabytes[-1] - megabytes[0]) / ((len(megabytes) - 1) * seconds / 60)


def full(service: Running, pool: ProcessPoolExecutor, number: int, seconds: float) -> dict[str, Any]:
    """Goodput and latency at full batches."""
    plan = Plan(service.url, DEMO_MODEL_ID, MEDIUM, number * TEXTS_PER_ROUND, FULL_CONNECTIONS, 1.0, seconds)
    done = pool.submit(drive, plan).result()
    if done.errors:
        raise WrongReplyError(f"at full batches: {len(done.errors)} errors, the first: {done.errors[0]}")
    check_samples(done.samples, MEDIUM, EmulatedVectors())
    return {
        "per_second": len(done.latencies) / done.seconds,
        "p50_ms": 1e3 * percentile(done.latencies, 50),
        "p99_ms": 1e3 * percentile(done.latencies, 99),
    }


def one_round(service: Running, pool: ProcessPoolExecutor, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Full batches, then calm, overload, calm."""
    at_full = full(service, pool, number, options.full_seconds)
    peak = at_full["per_second"]
    phases = Phases(peak / 2, options.times * peak, overload=options.seconds)
    plan = OpenPlan(
        service.url,
        DEMO_MODEL_ID,
        phases.streams(MEDIUM, number * TEXTS_PER_ROUND + TEXTS_PER_ROUND // 2, retrying=options.retries),
        seed=number,
        retry_delay=openai_retry_delay if options.retries else None,
    )
    memory = MemoryWatch(pids(service))
    with memory.watching():
        run = pool.submit(drive_open, plan).result()
    found = figures(run, phases, peak, MEDIUM, EmulatedVectors())
    settled = run.began + phases.start + min(SETTLE_SECONDS, options.seconds / 2)
    found |= {
        "phases": asdict(phases),
        "full": at_full,
        "accepted_p99_of_full": found["accepted"]["p99_ms"] / at_full["p99_ms"],
        "memory": memory.growth(settled, run.began + phases.stop),
        "gateway_mb": memory.megabytes["gateway"],
    }
    print(
        f"round {number}: {found['offered_per_second']:.0f} offered, {found['goodput_of_peak']:.3f} of {peak:.1f}/s, accepted p99 "
        f"{found['accepted']['p99_ms']:.0f} ms, refused p99 {found['refused'].get('p99_ms', 0):.0f} ms, recovery "
        f"{found['recovery_seconds']:.1f} s, {found['statuses']}",
        flush=True,
    )
    return found


def print_report(report: dict[str, Any]) -> None:
    """The tables."""
    print()
    print_head(report)
    print(f"load      {report['load_before'][0]:.2f} before the run")
    print(f"settings  {report['settings']}\n")
    print(table(["", "median (lowest-highest)"], [[name, figure(v, 2)] for name, v in report["figures"].items()]))
    print()
    verdicts = [
        [g["goal"], g["wanted"], f"{g['measured']:.2f}", "met" if g["met"] else "MISSED"] for g in report["goals"]
    ]
    print(table(["goal", "wanted", "measured", ""], verdicts))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload in a round")
    parser.add_argument("--full-seconds", type=float, default=6.0, help="at full batches in a round")
    parser.add_argument("--times", type=float, default=10.0, help="the peak goodput, to offer")
    parser.add_argument("--max-wait", type=float, default=1.0, help="admission.max_wait_seconds")
    parser.add_argument("--retries", action="store_true", help="callers try again as the openai client does")
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
