"""Short queries beside 8k documents: routing by tokens against Serve's own power of two choices.

python -m loadtest.bench_routing --out loadtest/results/routing.json
python -m loadtest.bench_routing --replicas 16 --tokens-per-second 10000 --rounds 3 --out loadtest/results/routing_16.json

Both services have as many Embedder replicas with the same emulated device and the product's batcher and HTTP surface; they differ in
how a request gets from the gateway to a replica (see `loadtest.power_of_two`). Queries and documents are requests of one text each,
sent at random moments (open loop). Both services run all the time and get the same arrivals in turn, round by round, the other idle
meanwhile. All replies are compared with the vectors that the device must give: a wrong one ends the run, a refused one too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from loadtest.bench_http import goal
from loadtest.emulated import DeviceSettings, EmulatedVectors
from loadtest.open_loop import OpenPlan, Stream, drive_open
from loadtest.replies import WrongReplyError, check_samples
from loadtest.report import describe_service_run, figure, percentile, print_head, spread, table, write_json
from loadtest.running import Running, emulated
from loadtest.workload import SHORT, Workload
from serve_app.types import DEMO_MODEL_ID

OURS, THEIRS = "by tokens", "power of two"
BUILDS = {OURS: "loadtest.emulated:build", THEIRS: "loadtest.power_of_two:build"}
DOCUMENT = Workload("document", 8000, 8190)
WORKLOADS = {"query": SHORT, "document": DOCUMENT}
BATCH_SECONDS = 0.005
WARM_SECONDS = 3.0
TEXTS_PER_ROUND = 100_000


def settings(replicas: int, device: DeviceSettings, gateways: int) -> dict[str, object]:
    """Both services'."""
    return {
        "replicas": replicas,
        "gateways": gateways,
        "num_cpus": 0.1,
        "gateway_num_cpus": 0.1,
        "device.batch_seconds": device.batch_seconds,
        "device.tokens_per_second": device.tokens_per_second,
        # What the product takes on a GPU.
        "dispatch.chunk_tokens": 16_384,
        "batch.max_tokens": 16_384,
    }


def rates(replicas: int, device: DeviceSettings, utilization: float, queries: float) -> dict[str, float]:
    """Requests a second of each kind: so many queries, and documents for the rest of the utilization; batches hold one input each."""
    seconds = {name: device.seconds(1, (w.shortest + w.longest) // 2) for name, w in WORKLOADS.items()}
    left = utilization * replicas - queries * seconds["query"]
    return {"query": queries, "document": left / seconds["document"]}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    device = DeviceSettings(batch_seconds=BATCH_SECONDS, tokens_per_second=options.tokens_per_second)
    report: dict[str, Any] = {
        **describe_service_run(),
        "load_before": os.getloadavg(),
        "utilization": options.utilization,
    }
    report["settings"] = settings(options.replicas, device, options.gateways)
    report["rates"] = rates(options.replicas, device, options.utilization, options.queries)
    names = list(BUILDS)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedserve-bench-")))
        services = {
            name: stack.enter_context(emulated(folder / f"{number}.log", report["settings"], BUILDS[name]))
            for number, name in enumerate(names)
        }
        pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        for number in range(options.rounds + 1):
            for name in names if number % 2 else reversed(names):
                found = one_round(services[name], pool, number, report["rates"], options.seconds)
                if number:  # the first warms up
                    rounds[name].append(found)
                    print(
                        f"round {number} {name:13} query p50 {found['query']['p50_ms']:6.1f} p99 {found['query']['p99_ms']:7.1f} ms, "
                        f"document p50 {found['document']['p50_ms']:6.1f} p99 {found['document']['p99_ms']:7.1f} ms",
                        flush=True,
                    )
    report["rounds"] = rounds
    report["results"] = [summary(name, rounds) for name in names]
    ratio = report["results"][-1]["ours_is"]["query"]["p99_ms"]["median"]
    report["goals"] = [goal("p99 of queries, of power of two's", ratio, at_most=1.0)]
    return report


def one_round(
    service: Running, pool: ProcessPoolExecutor, number: int, wanted: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Latencies of each kind, of requests due after the warm-up."""
    stop = WARM_SECONDS + seconds
    first = number * TEXTS_PER_ROUND
    streams = [Stream(name, wanted[name], 0.0, stop, workload, first) for name, workload in WORKLOADS.items()]
    run = pool.submit(drive_open, OpenPlan(service.url, DEMO_MODEL_ID, streams, seed=number)).result()
    found: dict[str, Any] = {}
    for name, workload in WORKLOADS.items():
        outcomes = run.of(name)
        if failed := [outcome.status for outcome in outcomes if outcome.status != 200]:
            raise WrongReplyError(f"{len(failed)} of {len(outcomes)} requests failed, with status {set(failed)}")
        check_samples([(outcome.number, outcome.body) for outcome in outcomes], workload, EmulatedVectors())
        counted = [outcome for outcome in outcomes if outcome.due >= WARM_SECONDS]
        latencies = [1e3 * outcome.seconds for outcome in counted]
        found[name] = {
            "requests": len(counted),
            "lag_p99_ms": 1e3 * percentile([outcome.lag for outcome in counted], 99),
            **{f"p{q}_ms": percentile(latencies, q) for q in (50, 90, 99)},
        }
    return found


def summary(name: str, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One service's spreads over its rounds; `ours_is` holds ours over it, round by round."""
    quantiles = ("p50_ms", "p90_ms", "p99_ms")
    return {
        "service": name,
        **{kind: {q: spread([each[kind][q] for each in rounds[name]]) for q in quantiles} for kind in WORKLOADS},
        "ours_is": {
            kind: {
                q: spread(
                    [mine[kind][q] / each[kind][q] for mine, each in zip(rounds[OURS], rounds[name], strict=True)]
                )
                for q in quantiles
            }
            for kind in WORKLOADS
        },
    }


def print_report(report: dict[str, Any]) -> None:
    """The tables."""
    print()
    print_head(report)
    print(f"load      {report['load_before'][0]:.2f} before the run")
    print(f"settings  {report['settings']}")
    wanted = ", ".join(f"{rate:.1f} {name} requests/s" for name, rate in report["rates"].items())
    print(f"workload  {wanted}: {report['utilization']:.0%} of the devices' time\n")
    rows = []
    for row in report["results"]:
        for kind in WORKLOADS:
            figures = [figure(row[kind][q]) for q in ("p50_ms", "p90_ms", "p99_ms")]
            ratio = "" if row["service"] == OURS else figure(row["ours_is"][kind]["p99_ms"], 2)
            rows.append([row["service"], kind, *figures, ratio])
    print(table(["routing", "kind", "p50 ms", "p90 ms", "p99 ms", "ours is: p99 x"], rows))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="measured seconds of a round")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--gateways", type=int, default=1)
    # About a 0.6B model on a small GPU: a document takes 0.21 s, a query alone 5 ms.
    parser.add_argument("--tokens-per-second", type=float, default=40_000, help="of a device")
    parser.add_argument("--utilization", type=float, default=0.7)
    parser.add_argument("--queries", type=float, default=60.0, help="a second")
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
