"""The command line of `embedserve bench`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from serve_app.bench.load import Load, callers, rates
from serve_app.bench.target import FORM, Target, TargetError
from serve_app.bench.workloads import WORKLOADS


def bench_command(environment: Mapping[str, str]) -> Callable[..., None]:
    """The command; keys of targets are looked up in `environment`."""

    def bench(
        target: Annotated[
            list[str],
            typer.Option(
                metavar="NAME=URL[,…]",
                help=f"{FORM}; repeatable. Ratios are the first one's to the others. key-env names the environment variable that"
                " holds the API key.",
            ),
        ],
        workload: Annotated[str, typer.Option(help=f"One or more of {', '.join(WORKLOADS)}.")] = "mix",
        connections: Annotated[
            str, typer.Option(help="Callers at once, each waiting for its answer; one or more numbers, empty for none.")
        ] = "1,8,32",
        rate: Annotated[
            str,
            typer.Option(
                help="Open loop: requests a second, or a share like 70% of what the slowest target did with most callers; one or"
                " more, empty for none."
            ),
        ] = "70%",
        rounds: Annotated[
            int, typer.Option(min=1, help="How often every target is measured: short rounds in plenty beat long ones.")
        ] = 12,
        seconds: Annotated[float, typer.Option(min=0.1, help="Measured time of a round.")] = 2.0,
        warm_seconds: Annotated[float, typer.Option(min=0.0, help="Load before that, not counted.")] = 0.5,
        timeout: Annotated[float, typer.Option(min=0.1, help="After which a request counts as failed.")] = 60.0,
        seed: Annotated[int, typer.Option(min=0, help="Of texts and moments.")] = 0,
        prices: Annotated[Path | None, typer.Option(help="Another price book than the one that comes along.")] = None,
        note: Annotated[str, typer.Option(help="Set on the page: the targets' hardware, for example.")] = "",
        out: Annotated[Path, typer.Option(help="Folder for report.html, report.json and report.csv.")] = Path(
            "bench-report"
        ),
    ) -> None:
        """Load embedding services in turn, and write a report that compares them. OpenAI's and Cohere's APIs."""
        names, loads = _named(workload), _loads(connections, rate)
        targets = _targets(target, environment)
        try:
            from rich.console import Console

            from serve_app.bench.bench import bench as run
            from serve_app.bench.preflight import PreflightError
            from serve_app.bench.rounds import Schedule
            from serve_app.telemetry.prices import read_price_book
        except ImportError as error:
            _fail(f"The load kit isn't installed ({error}): pip install 'embedserve[load]'.")
        schedule = Schedule(names, loads, rounds, seconds, warm_seconds, timeout, seed)
        command = shlex.join(["embedserve", *sys.argv[1:]])
        try:
            run(
                targets,
                schedule,
                read_price_book(prices).pricing(),
                out,
                command,
                note,
                Console(width=None if sys.stdout.isatty() else 160),
            )
        except (PreflightError, ValueError) as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("Interrupted; no report.")

    return bench


def _named(workload: str) -> list[str]:
    """The workloads that a list names."""
    names = [name for name in workload.split(",") if name]
    if not names or (unknown := [name for name in names if name not in WORKLOADS]):
        _fail(f"Unknown workload {', '.join(unknown) if names else repr(workload)}; there are {', '.join(WORKLOADS)}.")
    return names


def _loads(connections: str, rate: str) -> list[Load]:
    """Those of both lists."""
    try:
        closed, opened = callers(connections), rates(rate)
    except ValueError as error:
        _fail(f"--connections and --rate are numbers with commas between them: {error}")
    if not closed + opened:
        _fail("Neither --connections nor --rate names a load.")
    if not closed and any(load.share for load in opened):
        _fail("A share as --rate needs --connections.")
    return closed + opened


def _targets(texts: list[str], environment: Mapping[str, str]) -> list[Target]:
    """The targets, no two of a name."""
    try:
        targets = [Target.of(text, environment) for text in texts]
    except TargetError as error:
        _fail(f"--target {error}")
    if len({each.name for each in targets}) < len(targets):
        _fail("Two targets have the same name.")
    return targets


def _fail(message: str) -> NoReturn:
    print(f"embedserve: {message}", file=sys.stderr)
    raise typer.Exit(1)
