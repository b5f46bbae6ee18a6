"""All of `embedserve eval`: read the data, measure the targets, write the files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from serve_app.errors import EmbedserveError
from serve_app.evals import report
from serve_app.evals.cache import Cache
from serve_app.evals.dataset import DataError
from serve_app.evals.progress import Shown
from serve_app.evals.result import Run
from serve_app.evals.run import Loaded, Measured, evaluate
from serve_app.evals.run_prices import price_of
from serve_app.evals.run_table import costs, headlines, tested
from serve_app.evals.statistics import compare_all
from serve_app.evals.target import Target
from serve_app.evals.target_encoder import TargetEncoder
from serve_app.evals.target_kinds import backend_of
from serve_app.telemetry.prices import read_price_book

if TYPE_CHECKING:
    from serve_app.evals.suites import Suite

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: nothing was sent, something couldn't be measured, Ctrl-C."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for. `cache` None keeps no vectors."""

    targets: Sequence[Target]
    suites: Sequence[Suite]
    folders: dict[str, Path]
    out: Path
    before: Path | None
    seed: int
    concurrency: int
    cache: Path | None
    prices: Path | None
    command: Sequence[str]


def run_all(plan: Plan) -> int:
    """Carry it out, and return the exit code. Whatever is wrong with the plan is said before a target hears of it."""
    said = Console(stderr=True)
    with ExitStack() as stack:
        try:
            suites = [_loaded(suite, plan.folders.get(suite.name)) for suite in plan.suites]
            book = read_price_book(plan.prices)
            before = report.read(plan.before) if plan.before else None
            plan.out.mkdir(parents=True, exist_ok=True)
            cache = stack.enter_context(Cache(plan.cache))
            shown = Shown(said, len(plan.targets) * len(suites))
            targets = [
                Measured(
                    TargetEncoder(target, backend_of(target), cache, plan.concurrency, shown.texts),
                    price_of(target, book),
                )
                for target in plan.targets
            ]
        except (EmbedserveError, ValueError, OSError) as error:
            return _said(error, REFUSED)
        except ImportError as error:
            return _said(f"A target's package isn't installed ({error}): pip install 'embedserve[eval]'.", REFUSED)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with shown:
                run = evaluate(
                    targets, suites, compare_all, shown, seed=plan.seed, started=started, command=plan.command
                )
        except KeyboardInterrupt:
            kept = (
                "What was answered is kept: the same command goes on from there." if plan.cache else "Nothing was kept."
            )
            return _said(f"Interrupted; no report. {kept}", INTERRUPTED)
    written = [write(run, plan.out), *report.write(run, plan.out, before)]
    _summary(run, written)
    return FAILED if run.failures else 0


def write(run: Run, folder: Path) -> Path:
    """`run.json`: the one there before is replaced when the new one is whole."""
    path = folder / "run.json"
    part = folder / "run.json.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    return part.replace(path)


def _loaded(suite: Suite, folder: Path | None) -> Loaded:
    """Raises `DataError`."""
    try:
        return Loaded(suite, suite.load(folder), suite.digest(folder))
    except DataError as error:
        which = f"--data {suite.name}={folder}" if folder else f"The suite {suite.name} as it was installed"
        raise DataError([f"{which} can't be used, and nothing was sent:", *error.problems]) from None


def _summary(run: Run, written: Sequence[Path]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    if run.results:
        console.print(headlines(run))
        for line in tested(run):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print()
    console.print(costs(run))
    console.print(f"\nWritten: {', '.join(map(str, written))}", highlight=False, markup=False, soft_wrap=True)


def _said(message: object, code: int) -> int:
    Console(stderr=True).print(f"embedserve: {message}", highlight=False, markup=False, soft_wrap=True)
    return code
