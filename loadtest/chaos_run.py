"""One chaos run: start the cluster and the clients, inject the faults, see it whole again after each, and report."""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from loadtest.chaos_clients import Client, Traffic
from loadtest.chaos_cluster import ChaosCluster, wait_until
from loadtest.chaos_faults import Fault, Kind, inject, schedule
from loadtest.chaos_report import broken, late, summarize
from loadtest.report import describe_service_run
from serve_app.cluster.environment import Ports
from serve_app.engine.engine import Engine
from serve_app.types import DEMO_MODEL_ID

QUIET_SECONDS = (0.5, 2.0)  # between the end of one fault and the next
WHOLE_SECONDS = 240.0  # a bound; on a busy machine of two cores a node took a minute
PROOF_FAULTS = 10
PROOF_CLIENTS = [Client.NONE] * 4  # a node; those that retry would hide what is to be seen


class InterruptedRunError(BaseException):
    """Ctrl-C or SIGTERM. Not an `Exception`: nothing on the way may swallow it."""


def chaos(options: argparse.Namespace, head: Ports) -> dict[str, Any]:
    """The report. Whatever happens, no process of the cluster is left; if one was, the report says so."""
    report: dict[str, Any] = {**describe_service_run(), "options": {k: str(v) for k, v in vars(options).items()}}
    draw = random.Random(options.seed)
    engine = Engine.load(DEMO_MODEL_ID, device="cpu", threads=os.cpu_count() or 1)
    cluster = ChaosCluster(head, options.workers, options.embedders)
    try:
        with interruptible():
            cluster.deploy()
            report |= _phase(cluster, engine, draw, 60 * options.minutes, options.pause)
            if options.prove:
                cluster.deploy("loadtest.chaos_app:build")
                report["without_retries"] = _proof(cluster, engine, draw, options.pause)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        left = cluster.stop()
    report["left_behind"] = left
    report["processes"] = [[process.pid, process.create_time()] for process in cluster.seen]
    return report


def _phase(
    cluster: ChaosCluster, engine: Engine, draw: random.Random, seconds: float, pause_seconds: float
) -> dict[str, Any]:
    """Faults under load for so long, every kind at least once."""
    faults: list[Fault] = []
    never = []
    begin = time.monotonic()
    with load(cluster, engine, draw, pause_seconds) as traffic:
        try:
            for number, kind in enumerate(schedule(draw)):
                if number >= len(Kind) and time.monotonic() - begin > seconds:
                    break
                _fault(kind, cluster, draw, faults)
        except TimeoutError as error:
            never.append(str(error))
    report = {"seconds": time.monotonic() - begin} | summarize(traffic.requests, traffic.attempts, faults)
    return report | {"broken": never + broken(report), "late": late(report)}


def _proof(cluster: ChaosCluster, engine: Engine, draw: random.Random, pause_seconds: float) -> dict[str, Any]:
    """The same judgement of an application that doesn't send again what a dead Embedder had: some are killed until it shows."""
    faults: list[Fault] = []
    found: list[str] = []
    with load(cluster, engine, draw, pause_seconds, PROOF_CLIENTS) as traffic:
        while not found and len(faults) < PROOF_FAULTS:
            wait_until(cluster.whole, WHOLE_SECONDS, "whole before the next fault")
            _fault(Kind.EMBEDDER, cluster, draw, faults, aftermath_seconds=2.0)
            report = summarize([*traffic.requests], [*traffic.attempts], faults)
            found = [line for line in broken(report) if line.startswith(f"{Kind.EMBEDDER}: ")]
    return report | {"broken": found}


@contextmanager
def load(
    cluster: ChaosCluster,
    engine: Engine,
    draw: random.Random,
    pause_seconds: float,
    clients: Sequence[Client] = tuple(Client),
) -> Iterator[Traffic]:
    traffic = Traffic(cluster.nodes, DEMO_MODEL_ID, engine, draw.randrange(2**32), pause_seconds, clients)
    traffic.start()
    try:
        yield traffic
        time.sleep(QUIET_SECONDS[1])
    finally:
        traffic.stop()


def _fault(
    kind: Kind, cluster: ChaosCluster, draw: random.Random, faults: list[Fault], aftermath_seconds: float | None = None
) -> None:
    """Inject one and wait until the cluster is whole again, or just for so long. Raises `TimeoutError` if it never is."""
    time.sleep(draw.uniform(*QUIET_SECONDS))
    fault = inject(kind, cluster, draw)
    faults.append(fault)
    try:
        if aftermath_seconds is None:
            wait_until(cluster.whole, WHOLE_SECONDS, f"whole again after: {kind}")
        else:
            time.sleep(aftermath_seconds)
    finally:
        fault.end = time.monotonic()
    print(f"{kind} on {fault.node}: {fault.end - fault.begin:.1f} s", flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise. Ray has put its own handlers there when it started."""

    def stop(*_: object) -> NoReturn:
        raise InterruptedRunError

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
