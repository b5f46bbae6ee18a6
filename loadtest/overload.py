"""One round of overload: load before, many times what the devices can do, load after, on one time line; and its figures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from loadtest.open_loop import OpenRun, Outcome, Stream
from loadtest.replies import Reference, check_samples
from loadtest.report import percentile, slope_per_hour
from loadtest.workload import Workload

BEFORE, OVERLOAD, AFTER, HEALTH = "before", "overload", "after", "health"
HEALTH_PER_SECOND = 10.0
# A request is as before the overload if it takes at most so many times what 99 of 100 did then.
SLOW = 2.0
# The first seconds fill pools and queues once; growth counts from then on.
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase, and their requests a second."""

    calm_rate: float
    overload_rate: float
    before: float = 6.0
    overload: float = 60.0
    after: float = 10.0

    @property
    def start(self) -> float:
        """Of the overload."""
        return self.before

    @property
    def stop(self) -> float:
        """Of the overload."""
        return self.before + self.overload

    def streams(self, workload: Workload, first: int, *, retrying: bool = False) -> list[Stream]:
        """The round's load: texts numbered from `first`, one a request, and `/health` asked all the time."""
        rates = {BEFORE: self.calm_rate, OVERLOAD: self.overload_rate, AFTER: self.calm_rate}
        ends = [0.0, self.start, self.stop, self.stop + self.after]
        streams = []
        for i, (name, rate) in enumerate(rates.items()):
            streams.append(Stream(name, rate, ends[i], ends[i + 1], workload, first, retrying=retrying))
            first += int(2 * rate * (ends[i + 1] - ends[i])) + 1000
        return [*streams, Stream(HEALTH, HEALTH_PER_SECOND, 0.0, ends[-1])]


def figures(run: OpenRun, phases: Phases, peak: float, workload: Workload, reference: Reference) -> dict[str, Any]:
    """What the round gave. `peak` is the service's goodput at full batches, in requests a second.

    Raises `WrongReplyError` if any accepted request was answered wrongly.
    """
    overload, after, health = run.of(OVERLOAD), run.of(AFTER), run.of(HEALTH)
    accepted = [outcome for outcome in overload if outcome.status == 200]
    refused = [outcome for outcome in overload if outcome.status == 429]
    asked = [outcome for outcome in run.outcomes if outcome.stream != HEALTH]
    right = [outcome for outcome in asked if outcome.status == 200]
    check_samples([(outcome.number, outcome.body) for outcome in right], workload, reference)
    good = [outcome for outcome in right if phases.start <= outcome.ended < phases.stop]
    during = [outcome for outcome in health if phases.start <= outcome.due < phases.stop]
    calm_p99 = percentile([outcome.seconds for outcome in run.of(BEFORE)], 99)
    return {
        "offered_per_second": len(overload) / phases.overload,
        "tries_per_request": sum(outcome.tries for outcome in overload) / len(overload),
        "statuses": dict(Counter(outcome.status for outcome in asked)),
        "checked": len(right),
        "goodput_per_second": len(good) / phases.overload,
        "goodput_of_peak": len(good) / phases.overload / peak,
        "accepted": _milliseconds(outcome.seconds for outcome in accepted),
        "refused": _milliseconds(outcome.first_seconds for outcome in refused),
        "refused_with_retry_headers": sum(told_to_retry(outcome.headers) for outcome in refused) / max(1, len(refused)),
        "health": _milliseconds(outcome.seconds for outcome in during),
        "health_failed": sum(outcome.status != 200 for outcome in during),
        "calm_p99_ms": 1e3 * calm_p99,
        "recovery_seconds": recovery_seconds(after, phases.stop, SLOW * calm_p99),
        "lag_p99_ms": 1e3 * percentile([outcome.lag for outcome in asked], 99),
    }


def told_to_retry(headers: Mapping[str, str]) -> bool:
    """Whether a refusal says when to come back, in all the ways that clients look for."""
    return (
        headers.get("x-should-retry") in ("true", "false")
        and int(headers.get("retry-after", 0)) >= 1
        and float(headers.get("retry-after-ms", 0)) > 0
    )


def recovery_seconds(after: Sequence[Outcome], end: float, slowest: float) -> float:
    """From the overload's `end` until the last request was due that was refused, or took more than `slowest` seconds."""
    return max(
        (outcome.due - end for outcome in after if outcome.status != 200 or outcome.seconds > slowest), default=0.0
    )


def _milliseconds(seconds: Iterator[float]) -> dict[str, float]:
    values = [1e3 * value for value in seconds]
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "p50_ms": percentile(values, 50),
        "p99_ms": percentile(values, 99),
        "max_ms": max(values),
    }


@dataclass
class MemoryWatch:
    """Resident megabytes of groups of processes, every `interval` seconds; moments in seconds of `time.perf_counter`."""

    pids: Mapping[str, Sequence[int]]
    moments: list[float] = field(default_factory=list)
    megabytes: dict[str, list[float]] = field(default_factory=dict)
    interval: float = 1.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Samples are taken while the context lasts."""
        done = threading.Event()
        groups = {name: [psutil.Process(pid) for pid in pids] for name, pids in self.pids.items()}

        def sample() -> None:
            while not done.wait(self.interval):
                self.moments.append(time.perf_counter())
                for name, group in groups.items():
                    resident = sum(process.memory_info().rss for process in group) / 1e6
                    self.megabytes.setdefault(name, []).append(resident)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def growth(self, begin: float, end: float) -> dict[str, dict[str, float]]:
        """Of each group: megabytes at the first and last sample within these moments, and the slope in megabytes a minute."""
        kept = [i for i, moment in enumerate(self.moments) if begin <= moment <= end]
        found = {}
        for name, values in self.megabytes.items():
            slope = slope_per_hour([self.moments[i] for i in kept], [values[i] for i in kept]) / 60
            found[name] = {"first_mb": values[kept[0]], "last_mb": values[kept[-1]], "mb_per_minute": slope}
        return found
