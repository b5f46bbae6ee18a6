"""Targets in turn, round by round, each loaded while the others are idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from serve_app.bench.figures import Figures, figures
from serve_app.bench.generator import Plan
from serve_app.bench.load import Load
from serve_app.bench.record import Record
from serve_app.bench.target import Target
from serve_app.bench.workloads import SALTS

FIRST_GUESS = 200.0
"""Requests a second to make texts for, until a target has shown what it does."""


@dataclass(frozen=True)
class Schedule:
    """What is measured how long and how often."""

    workloads: list[str]
    loads: list[Load]
    rounds: int = 12
    seconds: float = 2.0
    warm_seconds: float = 0.5
    timeout: float = 60.0
    seed: int = 0

    def runs(self, targets: int) -> int:
        """How many rounds of one target there are in all."""
        return self.rounds * len(self.workloads) * len(self.loads) * targets

    def seconds_in_all(self, targets: int) -> float:
        """How long that takes if nobody is late."""
        return self.runs(targets) * (self.seconds + self.warm_seconds)


@dataclass(frozen=True)
class Run:
    """One round of one target with one workload and one load."""

    round: int
    target: str
    workload: str
    load: Load
    figures: Figures
    record: Record


Drive = Callable[[Plan], Record]


def run_rounds(targets: list[Target], schedule: Schedule, drive: Drive) -> Iterator[Run]:
    """All rounds as they end: first those with callers, then those at a rate, of which a share may follow from the first.

    Within a round every target gets the same load, requests of the same lengths and, at a rate, the same moments. The order turns from
    round to round.
    """
    if len(targets) >= SALTS:
        raise ValueError(f"at most {SALTS - 1} targets")
    found: list[Run] = []
    first = 0
    closed = [load for load in schedule.loads if not load.open]
    for loads in (closed, [load for load in schedule.loads if load.open]):
        for number in range(schedule.rounds if loads else 0):
            for workload in schedule.workloads:
                for asked in loads:
                    load = asked.at(slowest(found, workload)) if asked.open else asked
                    taken = 0
                    turn = number % len(targets)
                    for target in targets[turn:] + targets[:turn]:
                        rate = load.rate or _last_rate(found, target, workload, load)
                        prepare = round(1.25 * rate * (schedule.seconds + schedule.warm_seconds)) + load.callers
                        plan = Plan(
                            target,
                            workload,
                            load,
                            first,
                            prepare,
                            schedule.warm_seconds,
                            schedule.seconds,
                            schedule.timeout,
                            schedule.seed,
                            targets.index(target),
                        )
                        record = drive(plan)
                        taken = max(taken, record.due.size)
                        found.append(Run(number, target.name, workload, load, figures(record), record))
                        yield found[-1]
                    first += taken


def slowest(runs: list[Run], workload: str) -> float:
    """Of all targets the lowest of what each did with most callers, requests a second, medians over the rounds."""
    closed = [run for run in runs if run.workload == workload and not run.load.open]
    if not closed:
        raise ValueError("a share of the slowest target's rate needs rounds with callers before")
    most = max(run.load.callers for run in closed)
    rates: dict[str, list[float]] = {}
    for run in closed:
        if run.load.callers == most:
            rates.setdefault(run.target, []).append(run.figures.requests_per_second)
    return max(0.1, min(map(median, rates.values())))


def _last_rate(runs: list[Run], target: Target, workload: str, load: Load) -> float:
    for run in reversed(runs):
        if (run.target, run.workload, run.load) == (target.name, workload, load):
            return run.figures.requests_per_second
    return FIRST_GUESS
