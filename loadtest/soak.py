"""Mixed traffic for a long time: nothing may be answered wrongly, nothing may hang, nothing should grow.

python -m loadtest.soak --minutes 30 --out report.json

`embedserve up` as it comes, with the demo checkpoint; clients send short, medium and 200-input requests,
requests that must be refused, and requests they don't wait for. Every reply is compared with the engine's
own vectors. Memory, file descriptors and threads of every process of the service are sampled, and asyncio
tasks and object references of its replicas; the report has their slopes an hour after the warm-up. Before
the traffic and after it, each time once all work is done, the replicas are asked for the latter again. The
exit code is 1 if a reply was wrong or didn't come, or if more of those were left than there were.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.report import describe_service_run, print_head, table, write_json
from loadtest.running import embedserve
from loadtest.soak_inside import Inside, Vitals, leaks
from loadtest.soak_traffic import Traffic
from loadtest.soak_watch import MEASURES, Watch
from serve_app.engine.engine import Engine
from serve_app.types import DEMO_MODEL_ID

STATUS_EVERY_SECONDS = 60.0
# Traffic before the first look at the replicas at rest: what is made once must not look like a leak.
FIRST_SECONDS = 10.0


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Run it; the service is stopped whatever happens."""
    report: dict[str, Any] = {**describe_service_run(), "options": {k: str(v) for k, v in vars(options).items()}}
    engine = Engine.load(DEMO_MODEL_ID, device="cpu", threads=os.cpu_count() or 1)
    rested: list[Vitals] = []
    warm_seconds = 60 * (options.minutes / 4 if options.warm_minutes is None else options.warm_minutes)
    with tempfile.TemporaryDirectory(prefix="embedserve-soak-") as folder:
        log = Path(folder) / "up.log"
        try:
            with embedserve(log, *options.up) as service, Inside(service) as inside:
                traffic = Traffic(service.url, DEMO_MODEL_ID, engine)
                del engine
                with during(traffic):
                    time.sleep(FIRST_SECONDS)
                rested.append(inside.at_rest())
                watch = Watch(service)
                begin = time.monotonic()
                with during(traffic):
                    sample_until(begin, 60 * options.minutes, options.every, watch, inside, traffic)
                taken = time.monotonic() - begin
                rested.append(inside.at_rest())
        except TimeoutError as error:
            traffic.tally.faults.append(f"no rest, or no end: {error}")
        lines = log.read_text(errors="replace").splitlines()
    tally = traffic.tally
    return report | {
        "seconds": taken,
        "warm_seconds": warm_seconds,
        "answered": dict(tally.answered),
        "slowest_seconds": dict(tally.slowest),
        "faults": tally.faults,
        "at_rest": rested,
        "leaks": leaks(*rested) if len(rested) == 2 else ["unknown"],
        "processes": watch.summary(warm_seconds),
        "log_errors": [line for line in lines if "ERROR" in line or "Traceback" in line][:20],
        "series": {pid: {"seconds": s.seconds, **s.values} for pid, s in watch.series.items()},
    }


@contextmanager
def during(traffic: Traffic) -> Iterator[None]:
    """Traffic while the block runs."""
    traffic.start()
    try:
        yield
    finally:
        traffic.stop()


def sample_until(begin: float, seconds: float, every: float, watch: Watch, inside: Inside, traffic: Traffic) -> None:
    """Sample every so many seconds, and say each minute how it goes."""
    next_sample = next_status = 0.0
    while (now := time.monotonic() - begin) < seconds and not traffic.given_up:
        if now >= next_sample:
            watch.sample(now, asked(inside, traffic))
            next_sample += every
        if now >= next_status:
            counts = ", ".join(f"{kind} {count}" for kind, count in traffic.tally.answered.items())
            print(f"{now / 60:6.1f} min  {counts or 'started'}; faults {len(traffic.tally.faults)}", flush=True)
            next_status += STATUS_EVERY_SECONDS
        time.sleep(min(0.5, every))
    watch.sample(time.monotonic() - begin, asked(inside, traffic))


def asked(inside: Inside, traffic: Traffic) -> Vitals:
    """What the replicas say of themselves; a fault if they don't."""
    try:
        return inside.vitals()
    except Exception as error:  # whatever it is, the soak goes on and has failed
        traffic.tally.faults.append(f"vitals: {type(error).__name__}: {error}")
        return {}


def print_report(report: dict[str, Any]) -> None:
    """The tables."""
    print()
    print_head(report)
    print(f"workload  mixed, {report['seconds'] / 60:.1f} minutes, {report['warm_seconds'] / 60:.1f} of them warm-up\n")
    kinds = [
        [kind, count, f"{count / report['seconds']:.1f}", f"{report['slowest_seconds'][kind]:.2f}"]
        for kind, count in report["answered"].items()
    ]
    print(table(["requests", "count", "per second", "slowest s"], kinds))
    print("\nGrowth after the warm-up")
    rows = [
        [row["group"], row["pid"], row["samples"], *(cell for name in MEASURES for cell in _growth(row.get(name)))]
        for row in report["processes"]
    ]
    columns = [cell for name in ("RSS MiB", "fds", "threads", "tasks", "refs") for cell in (name, "to", "per hour")]
    print(table(["process", "pid", "samples", *columns], rows))
    for what in ("log_errors", "faults", "leaks"):
        print(f"\n{what.replace('_', ' ')}: {len(report[what]) or 'none'}")
        for line in report[what][:10]:
            print(f"  {line[:300]}")


def _growth(measure: dict[str, float] | None) -> list[str]:
    if measure is None:
        return ["", "", ""]
    return [f"{measure['first']:.0f}", f"{measure['last']:.0f}", f"{round(measure['per_hour'], 1) + 0.0:+.1f}"]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Mixed traffic for a long time, every reply checked.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-minutes", type=float, help="not counted for growth; default a quarter of the time")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    parser.add_argument("up", nargs="*", help="further arguments for `embedserve up`, after --")
    options = parser.parse_args()
    out = options.__dict__.pop("out")
    report = soak(options)
    print_report(report)
    write_json(report, out)
    sys.exit(1 if report["faults"] or report["leaks"] else 0)


if __name__ == "__main__":
    main()
