"""The HTTP path against a naive Serve app, its added latency, and the time from start to ready, in one run.

python -m loadtest.bench_http --out report.json

- throughput: `embedserve up` as it comes and `loadtest.naive_app`, both with the demo checkpoint (4 layers,
  128 wide), both running all the time, loaded in turn, round by round, over keep-alive connections that
  always have one request under way. A request is one text that no other request has; replies are base64.
  `short` texts have 8 to 12 tokens, `medium` 34 to 38. CPU time per request is that of each group of
  processes; `load generator` is ours.
- added latency: one short request at a time on the idle service, against tokenizer and engine in this
  process, taking turns.
- start: `embedserve up` to its `Ready:` line, with nothing else running.

`--target NAME=URL,MODEL` adds a service that already runs and serves the demo checkpoint (the
folder `serve_app/engine/demo_model`). Sampled replies of all are compared with the engine's own vectors: a wrong one
ends the run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.latency import added_latency
from loadtest.replies import WrongReplyError
from loadtest.report import describe_service_run, figure, print_head, spread, table, write_json
from loadtest.rounds import Schedule, Target, run_rounds, summarize
from loadtest.running import Running, embedserve, listening_on, running
from loadtest.workload import MEDIUM, SHORT, tokenizer
from serve_app.cluster.instance import free_port
from serve_app.engine.engine import Engine
from serve_app.types import DEMO_MODEL_ID

OURS, NAIVE = "embedserve", "naive"
LATENCY_FIRST = 2_000_000  # text numbers that no round has used
LATENCY_ROWS = {"over HTTP": "http_ms", "engine": "engine_ms"}
# Goals: (name, lowest or highest that counts as met)
TIMES_NAIVE_RATE, OF_NAIVE_P99, ADDED_MS, READY_SECONDS = 8.0, 0.25, 5.0, 15.0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that `options` ask for."""
    report: dict[str, Any] = {**describe_service_run(), "options": {k: str(v) for k, v in vars(options).items()}}
    report["load_before"] = os.getloadavg()
    schedule = Schedule(options.rounds, options.seconds, connections=options.connections)
    threads = os.cpu_count() or 1  # what `embedserve up` gives its one replica
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedserve-bench-")))
        if options.starts:
            report["starts"] = starts(options.starts, folder)
        ours = stack.enter_context(embedserve(folder / "up.log"))
        targets = [Target(OURS, ours.url, DEMO_MODEL_ID, lambda: pids(ours))]
        engine = Engine.load(DEMO_MODEL_ID, device="cpu", threads=threads)
        engine.warmup()
        # Before the others start: each Ray cluster takes some of the machine even when idle.
        if options.latency_requests:
            args = (engine, tokenizer(), SHORT, LATENCY_FIRST, options.latency_requests)
            report["latency"] = added_latency(ours.url, DEMO_MODEL_ID, *args)
        if options.rounds:
            if not options.no_naive:
                port = free_port()
                command = [sys.executable, "-m", "loadtest.naive_app", "--port", str(port), "--threads", str(threads)]
                naive = stack.enter_context(running(command, port, folder / "naive.log"))
                targets.append(Target(NAIVE, naive.url, DEMO_MODEL_ID, lambda: pids(naive)))
            targets += options.target
            results = run_rounds(targets, [SHORT, MEDIUM], schedule, engine)
            report["schedule"] = asdict(schedule)
            report["workloads"] = [asdict(workload) for workload in (SHORT, MEDIUM)]
            report["results"] = summarize(results, OURS)
    report["goals"] = goals(report)
    return report


def starts(count: int, folder: Path) -> dict[str, Any]:
    """Seconds from start to ready, so many times one after the other."""
    seconds = []
    for number in range(count):
        with embedserve(folder / f"start-{number}.log") as service:
            seconds.append(service.ready_seconds)
        print(f"start {number + 1}: ready after {seconds[-1]:.1f} s", flush=True)
    return {"seconds": seconds, "ready_seconds": spread(seconds)}


def goals(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was to be reached, what was, and whether that's enough."""
    found = []
    for row in report.get("results", []):
        if row["target"] == NAIVE and row["workload"] == SHORT.name:
            rate, p99 = (row["ours_is"][key]["median"] for key in ("requests_per_second", "p99_ms"))
            found.append(goal("requests/s, times the naive app's", rate, at_least=TIMES_NAIVE_RATE))
            found.append(goal("p99, of the naive app's", p99, at_most=OF_NAIVE_P99))
    if "latency" in report:
        found.append(goal("added latency, ms", report["latency"]["added_ms"], at_most=ADDED_MS))
    if "starts" in report:
        found.append(goal("start to ready, s", report["starts"]["ready_seconds"]["median"], at_most=READY_SECONDS))
    return found


def goal(name: str, measured: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    """One goal with one bound."""
    met = measured >= at_least if at_least is not None else at_most is not None and measured <= at_most
    wanted = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    return {"goal": name, "wanted": wanted, "measured": measured, "met": met}


def print_report(report: dict[str, Any]) -> None:
    """The tables."""
    print()
    print_head(report)
    print(f"load      {report['load_before'][0]:.2f} before the run")
    if rows := report.get("results"):
        schedule = report["schedule"]
        print(
            f"workload  1 distinct text a request, base64, {schedule['connections']} connections, "
            f"{schedule['rounds']} rounds of {schedule['seconds']:g} s; median (lowest-highest)\n"
        )
        columns = ["workload", "target", "requests/s", "p50 ms", "p99 ms", "ours: rate x", "ours: p99 x"]
        print(table(columns, [_throughput(row) for row in rows]))
        print("\nCPU microseconds per request")
        print(table(["workload", "target", "of all", "of which"], [_cpu(row) for row in rows]))
    if found := report.get("latency"):
        rows = [[name, *(f"{found[key][q]:.2f}" for q in ("p50", "p99"))] for name, key in LATENCY_ROWS.items()]
        print("\nOne short request at a time, ms")
        print(table(["", "p50", "p99"], rows))
    if found := report.get("starts"):
        print(f"\nStart to ready: {figure(found['ready_seconds'], unit=' s')}, {len(found['seconds'])} starts")
    print()
    verdicts = [
        [g["goal"], g["wanted"], f"{g['measured']:.2f}", "met" if g["met"] else "MISSED"] for g in report["goals"]
    ]
    print(table(["goal", "wanted", "measured", ""], verdicts))


def _throughput(row: dict[str, Any]) -> list[str]:
    figures = [figure(row[key]) for key in ("requests_per_second", "p50_ms", "p99_ms")]
    ratios = [figure(row["ours_is"][key], 2) for key in ("requests_per_second", "p99_ms")]
    return [row["workload"], row["target"], *figures, *(ratios if row["target"] != OURS else ["", ""])]


def _cpu(row: dict[str, Any]) -> list[str]:
    cpu = row["cpu_us_per_request"]
    parts = sorted(cpu.items(), key=lambda item: -item[1])
    return [row["workload"], row["target"], f"{sum(cpu.values()):.0f}", ", ".join(f"{n} {us:.0f}" for n, us in parts)]


def pids(service: Running) -> dict[str, list[int]]:
    """Process ids by group."""
    return {name: [process.pid for process in group] for name, group in service.groups().items()}


def other_target(text: str) -> Target:
    """`NAME=URL,MODEL` of a service that already runs; its CPU time is known if it runs on this machine."""
    name, _, rest = text.partition("=")
    url, _, model = rest.rpartition(",")
    parts = urlsplit(url)
    if not (name and model and parts.scheme == "http" and parts.hostname):
        raise argparse.ArgumentTypeError(f"{text!r} isn't NAME=URL,MODEL with an http URL")
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    return Target(name, url, model, lambda: {name: [p.pid for p in listening_on(parts.port or 80)]} if local else {})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="The HTTP path against a naive Serve app, interleaved.")
    parser.add_argument("--rounds", type=int, default=5, help="0: no throughput")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured seconds of a round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--latency-requests", type=int, default=500, help="0: no latency")
    parser.add_argument("--starts", type=int, default=3, help="0: no starts")
    parser.add_argument("--no-naive", action="store_true", help="without the naive app")
    parser.add_argument("--target", type=other_target, action="append", default=[], metavar="NAME=URL,MODEL")
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    options = parser.parse_args()
    out = options.__dict__.pop("out")
    try:
        report = measure(options)
    except WrongReplyError as error:
        sys.exit(f"wrong reply: {error}")
    print_report(report)
    write_json(report, out)


if __name__ == "__main__":
    main()
