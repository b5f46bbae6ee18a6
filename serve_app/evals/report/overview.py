"""The first table: a column for each target, with the headline of each suite, what it costs and how long it takes."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.evals.report.lookup import comparison_of, failures_of, headline, results_of, suites, targets
from serve_app.evals.report.table import (
    NOT_SIGNIFICANT,
    NOT_TESTED,
    UNKNOWN,
    Cell,
    Table,
    figure_cell,
    probability,
    words,
)
from serve_app.evals.result import Run, TargetUse

USES: list[tuple[str, str, Callable[[TargetUse], str]]] = [
    ("model", "", lambda use: use.model or UNKNOWN),
    ("vector width", "", lambda use: f"{use.dimensions:,}" if use.dimensions else UNKNOWN),
    ("USD per million tokens", "", lambda use: _dollars(use.usd_per_million_tokens)),
    ("USD of this run", "", lambda use: _dollars(use.usd)),
    ("latency p50", "of a request", lambda use: _milliseconds(use.latency_p50)),
    ("latency p95", "of a request", lambda use: _milliseconds(use.latency_p95)),
    ("requests", "", lambda use: f"{use.requests:,}"),
    ("tokens", "as the target counts", lambda use: f"{use.tokens:,}" if use.tokens else UNKNOWN),
    ("texts", "", lambda use: f"{use.texts:,}"),
    ("of these kept", "asked for before", lambda use: f"{use.cached / use.texts:.0%}" if use.texts else UNKNOWN),
    ("time waited", "", lambda use: f"{use.seconds:,.1f} s"),
]


def overview(run: Run) -> Table:
    """The last column says which differences of the headline figures are more than chance, where there is more than one target."""
    names = targets(run)
    several = len(names) > 1
    rows = []
    for suite in suites(run):
        best, sentences = verdict(run, suite)
        found, failed = results_of(run, suite), failures_of(run, suite)
        metric = next(iter(found.values())).headline if found else ""
        row = [words(suite, metric)]
        for name in names:
            if name in failed and name not in found:
                row.append(Cell("failed"))
            else:
                row.append(figure_cell(headline(found.get(name)), best=name == best))
        rows.append([*row, words(sentences[0], "", *sentences[1:])] if several else row)
    uses = {use.name: use for use in run.targets}
    for title, small, show in USES:
        row = [words(title, small), *(Cell(show(uses[name]) if name in uses else UNKNOWN) for name in names)]
        rows.append([*row, words("")] if several else row)
    return Table(["", *names, *(["difference between targets"] if several else [])], rows)


def verdict(run: Run, suite: str) -> tuple[str | None, list[str]]:
    """The target that is significantly better than each of the others in the suite's headline figure, None if none is; and in words
    how the one with the highest value stands to the others. Headline figures are better when higher."""
    values = {name: found.value for name, result in results_of(run, suite).items() if (found := headline(result))}
    if len(values) < 2:
        return None, ["nothing to compare with"]
    metric = next(iter(results_of(run, suite).values())).headline
    best = max(values, key=values.__getitem__)
    better, rest = [], []
    for other in (name for name in values if name != best):
        test = comparison_of(run, suite, metric, best, other)
        if test is None:
            rest.append(f"{best} against {other}: {NOT_TESTED}")
        elif test.significant and test.difference > 0:
            better.append(f"{other} ({probability(test.p_value)})")
        else:
            rest.append(f"{best} against {other}: {NOT_SIGNIFICANT} ({probability(test.p_value)})")
    sentences = [f"{best} is better than {' and '.join(better)}"] if better else []
    return None if rest else best, [*sentences, *rest]


def _dollars(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.4g}"


def _milliseconds(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{1000 * seconds:,.4g} ms"
