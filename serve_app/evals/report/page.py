"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from serve_app.evals.report.document import Document
from serve_app.evals.report.drawing import printable
from serve_app.evals.report.lookup import results_of, suites
from serve_app.evals.report.plots import draw, drawable
from serve_app.evals.report.reading import READING
from serve_app.evals.report.table import Table
from serve_app.evals.result import Plot, Run

TEMPLATE = Path(__file__).with_name("page.html")


def render(document: Document, run: Run) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    environment.filters["side_by_side"] = _side_by_side
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawings = [_drawings(run, suite, index) for index, suite in enumerate(suites(run))]
    return template.render(document=document, drawings=drawings, reading=READING)


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else printable(str(value))


def _side_by_side(tables: Iterable[Table]) -> list[tuple[str, list[Table]]]:
    return [(group, list(some)) for group, some in groupby(tables, lambda table: table.group)]


def _drawings(run: Run, suite: str, index: int) -> list[tuple[str, Markup, list[str]]]:
    """Title, SVG and what couldn't be drawn, of each drawing of a suite; those of one kind and title are one for all targets."""
    together: dict[tuple[str, str], dict[str, Plot]] = {}
    failed: dict[tuple[str, str], list[str]] = {}
    for name, result in results_of(run, suite).items():
        for plot in result.plots:
            place = (plot.kind, plot.title)
            together.setdefault(place, {})
            if why := drawable(plot):
                failed.setdefault(place, []).append(f"{name}: not drawn, {why}.")
            else:
                together[place][name] = plot
    # What is drawn is matplotlib's own output, in which every text is escaped already.
    return [
        (
            title,
            Markup(draw(plots, f"{index}-{number}") if plots else ""),  # noqa: S704
            failed.get((kind, title), []),
        )
        for number, ((kind, title), plots) in enumerate(together.items())
    ]
