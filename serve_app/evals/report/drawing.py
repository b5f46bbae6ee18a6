"""What all drawings have in common: their style, panels side by side, labels in any script, and the way into a page as SVG."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
WIDTH = 10.4
FONT_SIZE = 9.0
LONGEST_LABEL = 30
"""In half widths: a Chinese character takes two."""

# Text stays text, set by the reader's browser in its own fonts: matplotlib's know no Chinese. From 3.11 on it leaves enough room for
# characters it has no glyph of. A dollar sign in a name starts no formula.
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": FONT_SIZE,
    "text.parse_math": False,
    "savefig.dpi": 144,
}


@contextmanager
def style(salt: str) -> Iterator[None]:
    """`salt` makes the ids within a drawing its own among all drawings of a page, and the same in every run."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Up to three in a row, each `height` inches high."""
    across = min(count, 3)
    down = -(-count // across)
    figure = Figure(figsize=(min(WIDTH, 5.6 * across), height * down), layout="constrained")
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for spare in places[count:]:
        spare.set_visible(False)
    return figure, places[:count]


def label(text: str) -> str:
    """On one line, no longer than fits, and nothing in it that matplotlib would take for more than text."""
    text = printable(text)
    kept = text
    while len(kept) + _wide(kept) > LONGEST_LABEL:
        kept = kept[:-1]
    kept = kept if kept == text else kept.rstrip() + "…"
    return "\u200b" + kept if kept.startswith("_") else kept  # it leaves names that start so out of legends


def printable(text: str) -> str:
    """Without control characters, and without those that turn the direction of what follows."""
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    marked = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") and not c.isspace() else c for c in text)
    return " ".join(marked.translate(dict.fromkeys(map(ord, turning))).split())


def colours(count: int) -> list[Any]:
    """As many, distinct up to 20."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [mpl.colormaps["tab20"](index % 20) for index in range(count)]


def tidy(axes: Axes, title: str, across: str = "", up: str = "") -> None:
    axes.set_title(label(title), fontsize=FONT_SIZE)
    axes.set_xlabel(label(across))
    axes.set_ylabel(label(up))
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def svg(figure: Figure) -> str:
    """To be set into HTML: no declarations, no ids but those that the drawing itself refers to."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = re.sub(r'<g id="[^"<>]*">', "<g>", text[text.index("<svg") :])
    return re.sub(r' xmlns(:xlink)?="[^"<>]*"', "", text, count=2)


def _wide(text: str) -> int:
    return sum(unicodedata.east_asian_width(character) in "WF" for character in text)
