"""All of `embedserve bench`: check the targets, run the rounds, write the report."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from serve_app.bench import money, report
from serve_app.bench.describe import describe, gpu_names
from serve_app.bench.generator import drive
from serve_app.bench.preflight import Checked, PreflightError, check
from serve_app.bench.progress import result, shown
from serve_app.bench.rounds import Drive, Run, Schedule, run_rounds
from serve_app.bench.summary import distributions, rows, summarize
from serve_app.bench.target import Target
from serve_app.bench.workloads import WORKLOADS
from serve_app.telemetry.prices import Pricing


def bench(
    targets: list[Target], schedule: Schedule, pricing: Pricing, out: Path, command: str, note: str, console: Console
) -> report.Report:
    """Measure and write the report into the folder `out`. Raises `PreflightError` if a target can't be measured,
    or there can be no such folder."""
    environment = describe(command)
    checked = [check(target, schedule.workloads, schedule.seed) for target in targets]
    targets = [each.target for each in checked]
    try:
        out.mkdir(parents=True, exist_ok=True)  # before anything is measured for nothing
    except OSError as error:
        raise PreflightError(f"--out {out}: no report can be written there: {error.strerror}.") from None
    for each in checked:
        console.print(f"{each.target.name}: {each.target.url}, model {each.target.model}, {each.width} dimensions")
    with load_generator() as driven:
        rounds = run_rounds(targets, schedule, driven)
        count = schedule.runs(len(targets))
        runs = list(shown(rounds, count, schedule.seconds_in_all(len(targets)), console))
    done, lines = assemble(checked, schedule, runs, pricing, environment, note)
    written = report.write(done, lines, out)
    console.print()
    console.print(result(done["summary"], targets[0].name))
    for warning in done["warnings"]:
        console.print(f"! {warning}", markup=False)
    console.print(f"\nWritten: {', '.join(map(str, written))}", soft_wrap=True)
    return done


def assemble(
    checked: list[Checked],
    schedule: Schedule,
    runs: list[Run],
    pricing: Pricing,
    environment: dict[str, object],
    note: str,
) -> tuple[report.Report, dict[str, list[money.Line]]]:
    """The whole report, and the prices to compare with by workload."""
    factors = {name: money.factors(checked, name) for name in schedule.workloads}
    sources = {}
    targets = []
    for each in checked:
        hourly, sources[each.target.name] = hourly_of(each.target, pricing)
        targets.append(replace(each.target, hourly=hourly))
    found = rows(runs, targets, factors)
    messages: dict[str, Counter[str]] = {target.name: Counter() for target in targets}
    for run in runs:
        messages[run.target] += run.record.messages
        messages[run.target] += Counter(f"wrong reply: {text}" for text in run.record.wrong)
    done: report.Report = {
        "environment": environment,
        "note": note,
        "schedule": {**asdict(schedule), "loads": [load.name for load in schedule.loads]},
        "targets": [
            {
                **target.described(),
                "hourly_source": sources[target.name],
                "width": each.width,
                "version": each.version,
                "local": is_local(target.address.host),
            }
            for target, each in zip(targets, checked, strict=True)
        ],
        "workloads": [
            {"name": name, "about": WORKLOADS[name].about, "factors": factors[name]} for name in schedule.workloads
        ],
        "summary": summarize(found, targets),
        "distributions": distributions(runs),
        "messages": {name: dict(counter) for name, counter in messages.items() if counter},
        "rounds": found,
    }
    done["warnings"] = report.warnings(done)
    return done, {name: money.lines(checked, name, pricing) for name in schedule.workloads}


def hourly_of(target: Target, pricing: Pricing) -> tuple[float | None, str]:
    """What the target's machine costs an hour, and where that is from.

    Of a target without a price that runs on this machine and isn't told otherwise: the price book's GPU for each GPU there is, or its
    vCPU for each core.
    """
    if target.hourly is not None:
        return target.hourly, "given"
    if target.price is not None or not is_local(target.address.host):
        return None, ""
    gpus = len(gpu_names())
    device, count = (pricing.devices["gpu"], gpus) if gpus else (pricing.devices["cpu"], os.cpu_count() or 1)
    return device.usd_per_hour * count, f"assumed: {count} × {device.name}"


def is_local(host: str) -> bool:
    """Whether this is the machine the load generator runs on: a loopback address, or this host's own name."""
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def load_generator() -> Iterator[Drive]:
    """`drive` in a process of its own, the same for the whole run, so that it is warm."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        yield lambda plan: process.submit(drive, plan).result()
