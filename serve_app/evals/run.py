"""Measuring: all targets through all suites, then the targets against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app import __version__
from serve_app.evals.encoder import Encoder
from serve_app.evals.result import Comparison, Run, SuiteResult, TargetUse
from serve_app.evals.target import TargetError
from serve_app.evals.target_encoder import TargetEncoder


class Suite(Protocol):
    """What the runner needs of one of `serve_app.evals.suites.SUITES`."""

    @property
    def name(self) -> str: ...
    def texts(self, data: Any) -> list[str]: ...
    def measure(self, data: Any, encoder: Encoder, *, seed: int = 0) -> SuiteResult: ...


@dataclass(frozen=True)
class Loaded:
    """A suite with its data, and the SHA-256 of the files that it came from."""

    suite: Suite
    data: Any
    digest: str


Compared = Callable[[Sequence[SuiteResult], int], list[Comparison]]
"""All paired tests of these results, given a seed."""


class Watcher(Protocol):
    """Told what is going on."""

    def begins(self, target: str, suite: str) -> None: ...
    def ends(self, target: str, suite: str, result: SuiteResult | str) -> None:
        """`result` is the reason, where there is none."""
        ...

    def warns(self, warning: str) -> None: ...


@dataclass(frozen=True)
class Measured:
    """A target that is to be measured, and what it charges for a million tokens in US dollars, where that is known."""

    encoder: TargetEncoder
    price: float | None


def evaluate(
    targets: Sequence[Measured],
    suites: Sequence[Loaded],
    compared: Compared,
    watcher: Watcher,
    *,
    seed: int,
    started: str,
    command: Sequence[str],
) -> Run:
    """One target after the other, so that none waits for another's requests.

    A target that fails in a suite goes on with the next one, unless it said that it would fail there too; `Run.failures` has what is
    missing. Equal but for `started`, `command`, and the seconds, latencies, requests and cached texts of targets, for the same seed,
    data and vectors.
    """
    results: list[SuiteResult] = []
    uses: list[TargetUse] = []
    failures: dict[str, str] = {}
    for target in targets:
        for loaded, result in zip(suites, _through(target.encoder, suites, watcher, seed), strict=True):
            if isinstance(result, SuiteResult):
                results.append(result)
            else:
                failures[f"{target.encoder.name}/{loaded.suite.name}"] = result
        uses.append(target.encoder.use(target.price))
    return Run(
        version=__version__,
        started=started,
        command=list(command),
        seed=seed,
        data={loaded.suite.name: loaded.digest for loaded in suites},
        targets=uses,
        results=results,
        comparisons=compared(results, seed),
        failures=failures,
    )


def _through(encoder: TargetEncoder, suites: Sequence[Loaded], watcher: Watcher, seed: int) -> list[SuiteResult | str]:
    """What each suite found, or why it found nothing."""
    outcomes: list[SuiteResult | str] = []
    try:
        encoder.open()
        gone = ""
    except TargetError as error:
        gone = str(error)
    try:
        for loaded in suites:
            watcher.begins(encoder.name, loaded.suite.name)
            outcome: SuiteResult | str = gone
            if not gone:
                try:
                    encoder.prepare(loaded.suite.texts(loaded.data))
                    outcome = loaded.suite.measure(loaded.data, encoder, seed=seed)
                except TargetError as error:
                    outcome = str(error)
                    gone = outcome if error.gone else ""
            watcher.ends(encoder.name, loaded.suite.name, outcome)
            outcomes.append(outcome)
        if not gone and (warning := encoder.changed()):
            watcher.warns(warning)
    finally:
        encoder.close()
    return outcomes
