"""Services as child processes: start one, wait until it's ready, find its processes, stop all of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from serve_app.cluster.environment import run_directory
from serve_app.cluster.haproxy import strays
from serve_app.cluster.instance import free_port

START_SECONDS = 180.0
STOP_SECONDS = 60.0
READY = "Ready:"
_REPLICA = re.compile(r"ServeReplica:[^:]+:(\w+)")


@dataclass
class Running:
    """A started service. `ready_seconds` is from the start of its process to its `Ready:` line."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ready_seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def groups(self) -> dict[str, list[psutil.Process]]:
        """Its living processes by what they do: each deployment under its name, `haproxy`, `proxy`, `ray` the rest."""
        try:
            root = psutil.Process(self.process.pid)
            found = {process.pid: process for process in [root, *root.children(recursive=True)]}
        except psutil.NoSuchProcess:
            return {}
        found |= {process.pid: process for process in strays(run_directory(self.port))}
        groups = defaultdict(list)
        for process in found.values():
            try:
                groups[group_of(process.name(), " ".join(process.cmdline()))].append(process)
            except psutil.NoSuchProcess:
                continue
        return dict(groups)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever is left after `STOP_SECONDS`. Raises `TimeoutError` if that was needed."""
        processes = [process for group in self.groups().values() for process in group]
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            process.kill()
        if alive:
            raise TimeoutError(f"{len(alive)} processes of the service on port {self.port} didn't stop")


@contextmanager
def embedserve(log: Path, *arguments: str) -> Iterator[Running]:
    """`embedserve up` with these arguments, on a free port."""
    port = free_port()
    with running([sys.executable, "-m", "serve_app.cli", "up", "--port", str(port), *arguments], port, log) as service:
        yield service


@contextmanager
def emulated(log: Path, settings: Mapping[str, object], build: str = "loadtest.emulated:build") -> Iterator[Running]:
    """The application around an emulated device, or another that has one, with these settings, on a free port."""
    port = free_port()
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "loadtest.emulated_up", "--port", str(port), "--build", build, *pairs]
    with running(command, port, log) as service:
        yield service


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[Running]:
    """A command that prints a line with `Ready:` once it serves on `port`, stopped at the end whatever happens."""
    # Settings of the caller's shell would make two runs of one command line differ.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as out:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    service = Running(process, port, log)
    try:
        while READY not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)
        service.ready_seconds = time.monotonic() - started
        yield service
    finally:
        service.stop()


def group_of(name: str, command: str) -> str:
    """What a process of a Serve application does, told from its name and command line."""
    if replica := _REPLICA.search(command):
        return replica[1].lower()
    if "haproxy" in name:
        return "haproxy"
    return "proxy" if "ProxyActor" in command else "ray"


def listening_on(port: int) -> list[psutil.Process]:
    """The process that listens on `port` of this machine, with its children; none if that can't be found out."""
    try:
        found = {
            c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
        }
        roots = [psutil.Process(pid) for pid in found if pid is not None]
        return list(
            {process.pid: process for root in roots for process in [root, *root.children(recursive=True)]}.values()
        )
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return []
