"""Outlives a chaos run that is killed, and ends what the run has left: Ray's processes would mostly end by themselves, HAProxy and
stopped replicas never. The run writes the directories of its HAProxies, and the pids of its processes with their creation times, to
this process's stdin, a line each; what is named is ended when that pipe ends, with the run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from serve_app.cluster.haproxy import stop_strays
from serve_app.cluster.processes import kill

GRACE_SECONDS = 5.0  # HAProxy's manager may be starting another one


class Reaper:
    """The run's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.chaos_reaper"],
            stdin=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )

    def watch(self, what: Path | psutil.Process) -> None:
        """End this, too."""
        line = f"{what.pid} {what.create_time()}" if isinstance(what, psutil.Process) else str(what)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """End it all now, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(4 * GRACE_SECONDS)


def main() -> None:
    """Read until the end, then reap."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    directories, processes = [], []
    for line in sys.stdin:
        if line.startswith("/"):
            directories.append(Path(line.strip()))
        else:
            pid, created = line.split()
            processes.append((int(pid), float(created)))
    end = time.monotonic() + GRACE_SECONDS
    found = True
    while found or time.monotonic() < end:
        alive = [process for pid, created in processes if (process := _same(pid, created)) is not None]
        kill(alive)
        found = bool(alive) + sum(stop_strays(directory, patience_seconds=0.5) for directory in directories) > 0
        time.sleep(0.2)


def _same(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        alike = abs(process.create_time() - created) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
        return process if alike else None
    except psutil.NoSuchProcess:
        return None


if __name__ == "__main__":
    main()
