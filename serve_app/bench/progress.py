"""What a person at the terminal sees while it runs, and at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from serve_app.bench.rounds import Run


def shown(runs: Iterable[Run], count: int, seconds: float, console: Console) -> Iterator[Run]:
    """The same runs, each shown as a line when it ends; with a bar below where the terminal can."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console.print(f"{count} rounds of a target, about {seconds / 60:.1f} minutes")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("rounds", total=count)
        for run in runs:
            progress.console.print(line(run), highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
            yield run


def line(run: Run) -> str:
    """One run in one line."""
    figures = run.figures
    errors = f"  {figures.errors} errors" if figures.errors else ""
    p50, p99 = ("–" if value is None else f"{value:.1f}" for value in (figures.p50_ms, figures.p99_ms))
    return (
        f"round {run.round + 1:<3}{run.workload:12}{run.load.name:12}{run.target:16}"
        f"{figures.requests_per_second:9.1f} requests/s  p50 {p50:>8} ms  p99 {p99:>8} ms{errors}"
    )


def result(summary: list[dict[str, Any]], first: str) -> Table:
    """Medians, and ratios of the first target to the others with the 95 % interval, or the spread where rounds are too few."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = (
        "workload",
        "load",
        "target",
        "requests/s",
        "tokens/s",
        "p50 ms",
        "p99 ms",
        "errors",
        f"{first}: rate x",
        "p99 x",
    )
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < 3 else "right", no_wrap=True)
    for row in summary:
        ratio = row.get("first_is", {})
        table.add_row(
            row["workload"],
            row["load"],
            row["target"],
            _median(row["requests_per_second"], 1),
            _median(row["reference_tokens_per_second"], 0),
            _median(row["p50_ms"], 1),
            _median(row["p99_ms"], 1),
            str(row["errors"]),
            _whole(ratio.get("requests_per_second")),
            _whole(ratio.get("p99_ms")),
        )
    return table


def _median(values: dict[str, float] | None, digits: int) -> str:
    return "–" if values is None else f"{values['median']:,.{digits}f}"


def _whole(values: dict[str, float] | None) -> str:
    if values is None:
        return ""
    low, high = (values.get("from", values["lowest"]), values.get("to", values["highest"]))
    return f"{values['median']:.2f} ({low:.2f}-{high:.2f})"
