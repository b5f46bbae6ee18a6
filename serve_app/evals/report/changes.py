"""What changed since an earlier run: figures old and new, tested on the items that both have, and which items moved most."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from serve_app.evals.report.lookup import figure_of, headline, results_of, suites, targets
from serve_app.evals.report.suite import outcome
from serve_app.evals.report.table import (
    NOT_TESTED,
    UNKNOWN,
    Cell,
    Part,
    Table,
    difference_cell,
    figure_cell,
    number,
    signed,
    words,
)
from serve_app.evals.result import Comparison, Figure, Run, Samples, SuiteResult, TargetUse

PairedTest = Callable[[SuiteResult, SuiteResult, int], list[Comparison]]
"""Of two results of one suite, and a seed: a comparison for each figure that has samples in both, on the items that both have."""

MOST_MOVED = 8
"""Items of each suite and target."""
FEW = 16
"""Rows, of which a table with more is folded."""
HEAD = ["figure", "old", "new", "new − old, 95 % interval", "common items", "result"]


def changes(run: Run, before: Run, test: PairedTest) -> Part:
    """Targets are told apart by name: those of the same name in both runs are compared, with their suites in common."""
    headlines, moves, details = [], [], []
    for suite in suites(run):
        old_results = results_of(before, suite)
        for name, new in results_of(run, suite).items():
            if name not in old_results:
                continue
            old = old_results[name]
            rows = _rows(old, new, test, run.seed)
            counts, moved = _moved(old, new)
            if (top := rows.get((new.headline, ""))) is not None:
                headlines.append([words(suite, new.headline), words(name), *top[1:], words(counts)])
            moves += [[words(suite), words(name), *row] for row in moved]
            title = f"All figures of {suite}, {name}"
            details.append(Table(HEAD, list(rows.values()), title, folded=True, page_only=True))
    head = ["suite", "target"]
    tables = [
        Table([*head, *HEAD[1:], "items up / down / same"], headlines, "Headline figures"),
        Table([*head, "item", "old", "new", "new − old"], moves, "Items that moved most", folded=len(moves) > FEW),
        *details,
    ]
    return Part("What changed", [table for table in tables if table.rows], warnings(run, before))


def warnings(run: Run, before: Run) -> list[str]:
    """Why differences may come from something else than the targets, and what can't be compared."""
    found = []
    for suite in suites(run):
        old, new = before.data.get(suite), run.data.get(suite)
        if old and new and old != new:
            found.append(f"{suite}: the data are not the same (SHA-256 {old[:12]}… before, {new[:12]}… now).")
    if run.seed != before.seed:
        found.append(f"The seed was {before.seed} and is {run.seed}.")
    if run.version != before.version:
        found.append(f"The earlier run was measured by embedserve {before.version}, this one by {run.version}.")
    uses = {use.name: use for use in before.targets}
    for use in run.targets:
        if use.name in uses:
            found += _told_apart(uses[use.name], use)
    for word, one, other in (("only in this run", run, before), ("only in the earlier run", before, run)):
        if names := [name for name in targets(one) if name not in targets(other)]:
            found.append(f"Targets {word}: {', '.join(names)}.")
        if names := [name for name in suites(one) if name not in suites(other)]:
            found.append(f"Suites {word}: {', '.join(names)}.")
    return found


def _told_apart(old: TargetUse, new: TargetUse) -> list[str]:
    found = []
    if old.model != new.model:
        found.append(f"{new.name}: the model was {old.model} and is {new.model}.")
    if old.dimensions and new.dimensions and old.dimensions != new.dimensions:
        found.append(f"{new.name}: vectors were {old.dimensions} wide and are {new.dimensions}.")
    for key in dict.fromkeys([*old.described, *new.described]):
        was, now = old.described.get(key), new.described.get(key)
        if was != now and key not in ("model", "dimensions"):
            found.append(f"{new.name}: {key} was {_told(was)} and is {_told(now)}.")
    return found


def _rows(old: SuiteResult, new: SuiteResult, test: PairedTest, seed: int) -> dict[tuple[str, str], list[Cell]]:
    """By metric and group: all figures of the new result, then those that only the old one has."""
    tested = {(found.metric, found.group): found for found in test(new, old, seed)}
    rows = {}
    for place in dict.fromkeys((figure.metric, figure.group) for figure in (*new.figures, *old.figures)):
        before, now = figure_of(old, *place), figure_of(new, *place)
        rows[place] = [
            words(*place),
            figure_cell(before),
            figure_cell(now),
            *_difference(before, now, tested.get(place)),
        ]
    return rows


def _difference(old: Figure | None, new: Figure | None, test: Comparison | None) -> list[Cell]:
    if test is not None:
        return [difference_cell(test), Cell(f"{test.n:,}"), words(outcome(test, "higher", "lower"))]
    change = signed(new.value - old.value, new.unit) if old and new else UNKNOWN
    return [Cell(change), Cell(""), words(NOT_TESTED if old and new else "only in one run")]


def _common(new: Samples, old: Samples) -> tuple[Samples, Samples]:
    """Both, of the items that both have, in the new one's order."""
    before = dict(zip(old.ids, old.values, strict=True))
    both = [(name, value) for name, value in zip(new.ids, new.values, strict=True) if name in before]
    ids = [name for name, _ in both]
    return Samples(ids, [value for _, value in both]), Samples(ids, [before[name] for name in ids])


def _moved(old: SuiteResult, new: SuiteResult) -> tuple[str, list[list[Cell]]]:
    """How many items went which way in the headline figure, and those that moved most."""
    now, before = headline(new), headline(old)
    if not (now and before and now.samples in new.samples and before.samples in old.samples):
        return "", []
    ours, theirs = _common(new.samples[now.samples or ""], old.samples[before.samples or ""])
    moved = [(is_ - was, name, was, is_) for name, was, is_ in zip(ours.ids, theirs.values, ours.values, strict=True)]
    higher, lower = sum(change > 0 for change, *_ in moved), sum(change < 0 for change, *_ in moved)
    most = sorted((item for item in moved if item[0]), key=lambda item: (-abs(item[0]), item[1]))[:MOST_MOVED]
    rows = [
        [words(name), Cell(number(was)), Cell(number(is_)), Cell(signed(change))] for change, name, was, is_ in most
    ]
    return f"{higher:,} / {lower:,} / {len(moved) - higher - lower:,}", rows


def _told(value: object) -> str:
    return "not told" if value is None else msgspec.json.encode(value).decode()
