"""Memory, file descriptors and threads of every process of a service over time, and asyncio tasks and object references of its
replicas."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import psutil

from loadtest.report import slope_per_hour
from loadtest.running import Running
from loadtest.soak_inside import Vitals

MIB = 1024 * 1024
INSIDE = ("tasks", "object_references")
MEASURES = ("rss_mib", "fds", "threads", *INSIDE)


@dataclass
class Series:
    """One process's samples: seconds since the start, and one list per measure."""

    group: str
    pid: int
    seconds: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, seconds: float, measured: dict[str, float]) -> None:
        """One moment."""
        self.seconds.append(seconds)
        for name, value in measured.items():
            self.values[name].append(value)

    def summary(self, warm_seconds: float) -> dict[str, Any]:
        """Ends and slope an hour of each measure, of the samples after the warm-up; of all if there's none after."""
        start = next((i for i, moment in enumerate(self.seconds) if moment >= warm_seconds), 0)
        found: dict[str, Any] = {"group": self.group, "pid": self.pid, "samples": len(self.seconds) - start}
        for name, values in self.values.items():
            after = values[start:]
            slope = slope_per_hour(self.seconds[start:], after)
            found[name] = {"first": after[0], "last": after[-1], "highest": max(after), "per_hour": slope}
        return found


class Watch:
    """All processes of one service, the ones that come and go included."""

    def __init__(self, service: Running) -> None:
        self.series: dict[int, Series] = {}
        self._service = service

    def sample(self, seconds: float, inside: Vitals) -> None:
        """Measure every living process now; `inside` is what the replicas say of themselves."""
        for group, processes in self._service.groups().items():
            for process in processes:
                try:
                    with process.oneshot():
                        measured = {
                            "rss_mib": process.memory_info().rss / MIB,
                            "fds": float(process.num_fds()),
                            "threads": float(process.num_threads()),
                        }
                except psutil.Error:
                    continue
                said = inside.get(process.pid, {})
                measured |= {name: float(said[name]) for name in INSIDE if name in said}
                self.series.setdefault(process.pid, Series(group, process.pid)).add(seconds, measured)

    def summary(self, warm_seconds: float) -> list[dict[str, Any]]:
        """Every process that was seen more than once, the fastest growing first."""
        rows = [series.summary(warm_seconds) for series in self.series.values() if len(series.seconds) > 1]
        return sorted(rows, key=lambda row: -row["rss_mib"]["per_hour"])
