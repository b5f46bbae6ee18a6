"""What the report says about one suite: its figures by target and by group, its paired tests, what to know about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.evals.report.lookup import failures_of, figure_of, results_of, targets
from serve_app.evals.report.table import (
    NOT_SIGNIFICANT,
    UNKNOWN,
    Cell,
    Part,
    Table,
    difference_cell,
    figure_cell,
    number,
    probability,
    words,
)
from serve_app.evals.result import Comparison, Figure, Run, SuiteResult

PAIR = "→"
LONG = 16
"""Rows, of which a table with more is folded."""


def suite_part(run: Run, suite: str) -> Part:
    found = results_of(run, suite)
    tables = [overall(found), *matrices(found), *groups(found), *tests(run, suite)]
    return Part(suite, [table for table in tables if table.rows], remarks(run, suite))


def remarks(run: Run, suite: str) -> list[str]:
    """Each note once, with the targets it is about unless that is all of them; then what failed."""
    found = results_of(run, suite)
    about: dict[str, list[str]] = {}
    for name, result in found.items():
        for note in dict.fromkeys(result.notes):
            about.setdefault(note, []).append(name)
    lines = [
        note if len(names) == len(targets(run)) else f"{', '.join(names)}: {note}" for note, names in about.items()
    ]
    return [*lines, *(f"{name} was not measured: {why}" for name, why in failures_of(run, suite).items())]


def overall(found: dict[str, SuiteResult]) -> Table:
    """Figures of all items: a row for each metric, a column for each target."""
    return _by_target(found, [place for place in _places(found) if not place[1]], "Figures")


def groups(found: dict[str, SuiteResult]) -> list[Table]:
    """Figures of parts. For one target all metrics of the same groups side by side, for several a table for each metric."""
    by_metric: dict[str, list[str]] = {}
    for metric, group in _places(found):
        if group:
            by_metric.setdefault(metric, []).append(group)
    if len(found) != 1:
        return [_by_target(found, [(metric, group) for group in names], metric) for metric, names in by_metric.items()]
    [result] = found.values()
    together: dict[tuple[str, ...], list[str]] = {}
    for metric, names in by_metric.items():
        together.setdefault(tuple(names), []).append(metric)
    return [
        Table(
            ["part", *metrics, "items"],
            [
                [
                    words(group),
                    *(figure_cell(figure_of(result, metric, group)) for metric in metrics),
                    _items([figure_of(result, metric, group) for metric in metrics]),
                ]
                for group in names
            ],
            ", ".join(metrics),
            **_place(names),
        )
        for names, metrics in together.items()
    ]


def matrices(found: dict[str, SuiteResult]) -> list[Table]:
    """Of groups named `zh→en`: a matrix for each metric and target, queries' languages down and documents' across. Words behind the
    second language belong to the title: those of the same words make a matrix."""
    tables = []
    by_title: dict[tuple[str, str], list[str]] = {}
    for metric, group in _places(found):
        if PAIR in group:
            by_title.setdefault((metric, _behind(group)), []).append(group)
    for (metric, behind), pairs in by_title.items():
        if not _is_matrix(pairs):
            continue
        ends = [_ends(pair) for pair in pairs]
        # `zh→all`, of which there is no `all→zh`, stands behind the single languages.
        down, across = list(dict.fromkeys(start for start, _ in ends)), list(dict.fromkeys(end for _, end in ends))
        across.sort(key=lambda end: end not in down)
        title = " ".join(filter(None, (metric, "from language to language", behind)))
        shown = [figure for result in found.values() for pair in pairs if (figure := figure_of(result, metric, pair))]
        low, high = min(figure.value for figure in shown), max(figure.value for figure in shown)
        for name, result in found.items():
            cells = {
                _ends(pair): _shaded(figure, low, high) for pair in pairs if (figure := figure_of(result, metric, pair))
            }
            rows = [[words(start), *(cells.get((start, end), Cell(UNKNOWN)) for end in across)] for start in down]
            tables.append(Table([f"from{PAIR}to", *across], rows, name, group=title))
    return tables


def tests(run: Run, suite: str) -> list[Table]:
    """All paired tests of the suite, those of parts in a table of their own."""
    mine = [comparison for comparison in run.comparisons if comparison.suite == suite]
    places = [(c.metric, c.group) for c in mine]
    mine.sort(key=lambda comparison: places.index((comparison.metric, comparison.group)))
    whole, parts = ([c for c in mine if bool(c.group) is part] for part in (False, True))
    head = ["figure", "a", "b", "a − b, 95 % interval", "items", "result"]
    note = "Paired on the same items; p is corrected for the number of comparisons (Holm)."
    return [
        Table(head, [_test(comparison) for comparison in whole], "Paired tests", note),
        Table(
            head,
            [_test(comparison) for comparison in parts],
            "Paired tests of parts",
            note,
            folded=True,
            page_only=True,
        ),
    ]


def outcome(comparison: Comparison, higher: str, lower: str) -> str:
    """In words, with p."""
    if not comparison.significant:
        return f"{NOT_SIGNIFICANT} ({probability(comparison.p_value)})"
    return f"{higher if comparison.difference > 0 else lower} ({probability(comparison.p_value)})"


def _test(comparison: Comparison) -> list[Cell]:
    result = outcome(comparison, f"{comparison.a} is higher", f"{comparison.b} is higher")
    return [
        words(comparison.metric, comparison.group),
        words(comparison.a),
        words(comparison.b),
        difference_cell(comparison),
        Cell(f"{comparison.n:,}"),
        words(result),
    ]


def _places(found: dict[str, SuiteResult]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((f.metric, f.group) for result in found.values() for f in result.figures))


def _ends(pair: str) -> tuple[str, str]:
    """`zh` and `en` of `zh→en in the pool`."""
    start, _, rest = pair.partition(PAIR)
    return start, rest.partition(" ")[0]


def _behind(group: str) -> str:
    """`in the pool` of `zh→en in the pool`."""
    return group.partition(PAIR)[2].partition(" ")[2]


def _is_matrix(groups: Sequence[str]) -> bool:
    """Whether they are pairs with at least two rows and columns."""
    ends = [_ends(group) for group in groups]
    return all(PAIR in group for group in groups) and min(len(set(side)) for side in zip(*ends, strict=True)) > 1


def _is_pairs(groups: Sequence[str]) -> bool:
    """Whether all of them are in matrices."""
    behind = dict.fromkeys(map(_behind, groups))
    return bool(groups) and all(_is_matrix([group for group in groups if _behind(group) == end]) for end in behind)


def _place(names: Sequence[str]) -> dict[str, Any]:
    """Of a table with these parts as rows: long ones folded, those that are a matrix already in the page alone."""
    folded = len(names) > LONG or _is_pairs(names)
    return {"folded": folded, "group": "By part" if any(names) else "", "page_only": _is_pairs(names)}


def _by_target(found: dict[str, SuiteResult], places: list[tuple[str, str]], title: str) -> Table:
    rows = []
    for metric, group in places:
        figures = [figure_of(result, metric, group) for result in found.values()]
        rows.append([words(group or metric), *map(figure_cell, figures), _items(figures)])
    names = [group for _, group in places]
    return Table(["part" if any(names) else "metric", *found, "items"], rows, title, **_place(names))


def _items(figures: list[Figure | None]) -> Cell:
    counts = dict.fromkeys(f"{figure.n:,}" for figure in figures if figure and figure.n)
    return Cell(" / ".join(counts))


def _shaded(figure: Figure, low: float, high: float) -> Cell:
    """Without its interval, so that matrices of several targets stand side by side; it is in the table of the parts."""
    return Cell(number(figure.value, figure.unit), shade=(figure.value - low) / (high - low) if high > low else None)
