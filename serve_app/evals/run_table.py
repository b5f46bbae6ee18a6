"""A run in a few lines, for the terminal."""

from __future__ import annotations

from rich.table import Table

from serve_app.evals.result import Figure, Run, SuiteResult, TargetUse


def headlines(run: Run) -> Table:
    """A line for each suite, a column for each target: the headline figure with its 95 % interval."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("suite", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for use in run.targets:
        table.add_column(use.name, justify="right", no_wrap=True)
    found = {(result.suite, result.target): result for result in run.results}
    for suite in run.data:
        cells = [found.get((suite, use.name)) for use in run.targets]
        metric = next((result.headline for result in cells if result), "")
        table.add_row(suite, metric, *(_cell(result) for result in cells))
    return table


def costs(run: Run) -> Table:
    """A line for each target: what asking it took."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(
        ("target", "model", "dims", "texts", "kept", "requests", "p50 ms", "p95 ms", "tokens", "USD")
    ):
        table.add_column(name, justify="left" if number < 2 else "right", overflow="fold")
    for use in run.targets:
        table.add_row(
            use.name,
            use.model or "–",
            str(use.dimensions or "–"),
            f"{use.texts:,}",
            f"{use.cached:,}",
            f"{use.requests:,}",
            _milliseconds(use.latency_p50),
            _milliseconds(use.latency_p95),
            f"{use.tokens:,}" if use.tokens else "–",
            _dollars(use),
        )
    return table


def tested(run: Run) -> list[str]:
    """What the paired tests say about the headline figures, a line each."""
    metrics = {result.suite: result.headline for result in run.results}
    lines = []
    for test in run.comparisons:
        if test.group or metrics.get(test.suite) != test.metric:
            continue
        sign = "significant" if test.significant else "not significant"
        lines.append(
            f"{test.suite}: {test.a} − {test.b} = {test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}), "
            f"p {'< 0.001' if test.p_value < 0.001 else f'= {test.p_value:.3f}'}, {sign}"
        )
    return lines


def _cell(result: SuiteResult | None) -> str:
    figure = _headline(result) if result else None
    if figure is None:
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.3f}-{figure.high:.3f})"
    return f"{figure.value:.3f}{interval}"


def _headline(result: SuiteResult) -> Figure | None:
    return next((each for each in result.figures if (each.metric, each.group) == (result.headline, "")), None)


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:,.1f}"


def _dollars(use: TargetUse) -> str:
    return "–" if use.usd is None else f"{use.usd:,.6f}"
