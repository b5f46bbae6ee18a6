"""`embedserve up` as a child process: start it, find its processes, stop it, see what it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from serve_app.cluster.environment import run_directory
from serve_app.cluster.haproxy import strays
from serve_app.cluster.instance import free_port

START_SECONDS = 300
STOP_SECONDS = 60


@dataclass
class RunningService:
    """A started service. `seen` collects every process of it that was ever looked at."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def start(cls, log: Path, *arguments: str, python: Path = Path(sys.executable)) -> Iterator[RunningService]:
        port = free_port()
        with log.open("wb") as out:
            process = subprocess.Popen(
                [python, "-m", "serve_app.cli", "up", "--port", str(port), *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=log.parent,  # not the repository: what is imported must be what is installed
            )
        running = cls(process, port, log)
        try:
            running.wait_for_line("Ready:")
            yield running
        finally:
            running.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client is pointed at."""
        return f"{self.url}/v1"

    def wait_for_line(self, text: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while text not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """All living processes below `embedserve up`, itself included."""
        try:
            root = psutil.Process(self.process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        self.seen |= {process.pid: process for process in found}
        return found

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replica processes of one deployment, found by the title that Ray gives them."""
        found = []
        for process in self.processes():
            try:
                if f"ServeReplica:embedserve:{deployment}" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait_healthy(self, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not healthy after {seconds} s")

    def stop(self, number: signal.Signals = signal.SIGTERM, *, group: bool = False) -> int:
        """Its exit code. With `group` the signal goes to every process of the group, as terminals and systemd send it."""
        self.processes()
        if self.process.poll() is None:
            if group:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def leftovers(self) -> list[str]:
        """What still runs of this service; processes get a moment to be reaped."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=10)
        return [f"{process.pid} {process.name()}" for process in alive + strays(run_directory(self.port))]
