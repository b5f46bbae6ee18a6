"""Tables, as Markdown and HTML share them: what stands in a cell is decided once, the two only set it."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.evals.result import Comparison, Figure

UNKNOWN = "–"
NOT_SIGNIFICANT = "not significant"
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Cell:
    """`more` are further lines, `small` stands below them; `shade` from 0 to 1 colours the cell; `words` are set to the left,
    numbers to the right."""

    text: str
    small: str = ""
    more: tuple[str, ...] = ()
    best: bool = False
    shade: float | None = None
    words: bool = False


@dataclass(frozen=True)
class Table:
    """Tables of one `group` that follow each other stand under its heading, in the page side by side. `folded`: until it is opened.
    `page_only`: Markdown leaves it out and says where it is."""

    head: list[str]
    rows: list[list[Cell]]
    title: str = ""
    note: str = ""
    folded: bool = False
    group: str = ""
    page_only: bool = False


@dataclass(frozen=True)
class Part:
    """Some tables under a heading, with what a reader must know before them."""

    title: str
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def words(text: str, small: str = "", *more: str) -> Cell:
    return Cell(text, small, more, words=True)


def number(value: float, unit: str = "") -> str:
    """Shares of 1 with three decimals, quantities with four digits and their unit."""
    return f"{value:,.5g} {unit}" if unit else f"{_unsigned_zero(value, 3):.3f}"


def signed(value: float, unit: str = "") -> str:
    return f"{value:+,.4g} {unit}" if unit else f"{_unsigned_zero(value, 3):+.3f}"


def interval(low: float | None, high: float | None, unit: str = "") -> str:
    """`0.701 to 0.768`; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{number(low, unit)} to {number(high, unit)}"


def figure_cell(figure: Figure | None, best: bool = False) -> Cell:
    if figure is None:
        return Cell(UNKNOWN, best=best)
    small = interval(figure.low, figure.high, figure.unit)
    return Cell(number(figure.value, figure.unit), small, best=best)


def difference_cell(comparison: Comparison) -> Cell:
    low, high = signed(comparison.low), signed(comparison.high)
    return Cell(signed(comparison.difference), f"{low} to {high}")


def probability(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _unsigned_zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0
