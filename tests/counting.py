"""Processes that count in a metrics directory, to be killed while they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.snapshot import Series

COUNTED: Series = ("embedserve_seen_total", (("kind", "a"),))

# Counts, and only then says so: whoever reads the line knows that it has been counted.
COUNTER = """
import sys, time
from pathlib import Path
from serve_app.telemetry import families
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.process import count_in

count_in(MetricsDirectory(Path(sys.argv[1])))
seen = families.counter("seen", "Things.", "kind").labels("a")
size = families.histogram("size_bytes", "Sizes.", (1.0, 10.0)).observe
level = families.gauge("level", "A level.")
peak = families.peak("peak", "A peak.")
level.set(2)
peak.set(int(sys.argv[2]))
for number in range(1, int(sys.argv[2]) + 1):
    seen.inc()
    size(number % 20)
    print(number, flush=True)
sys.stdin.read()
"""


def counting(directory: Path, times: int) -> subprocess.Popen[str]:
    """A process that counts to `times`, says each number once it is counted, and stays."""
    return subprocess.Popen(
        [sys.executable, "-c", COUNTER, str(directory), str(times)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str], times: int) -> subprocess.Popen[str]:
    """The process, once it has counted so far."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == times:
            break
    return process


def killed(process: subprocess.Popen[str]) -> None:
    """End it with SIGKILL, at once."""
    process.kill()
    process.communicate()


def total(directory: Path) -> float:
    """What all processes have counted."""
    return MetricsDirectory(directory).read().totals().get(COUNTED, 0.0)
