"""The drawings of a suite: those of one title stand side by side, a panel for each target, on the same scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from serve_app.evals.report.drawing import FONT_SIZE, colours, label, panels, style, svg, tidy
from serve_app.evals.result import Plot

MOST_LABELS = 40
MOST_POINTS = 1500
"""In a panel, above which points become a picture: a page of many drawings stays small."""
MARKS = "os^DvPX*<>"
_UPRIGHT: Any = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}


def draw(plots: Mapping[str, Plot], salt: str) -> str:
    """SVG of the plots of one kind and title, by target; each must be `drawable`."""
    with style(salt):
        return svg(_KINDS[next(iter(plots.values())).kind](plots))


def drawable(plot: Plot) -> str:
    """Empty, or why not."""
    if plot.kind not in _KINDS:
        return f"there is no kind of drawing {plot.kind!r}"
    whole = {
        "heatmap": bool(plot.values)
        and len(plot.values) == len(plot.rows)
        and all(len(row) == len(plot.columns) > 0 for row in plot.values),
        "lines": bool(plot.x and plot.series) and all(len(line) == len(plot.x) for line in plot.series.values()),
        "scatter": bool(plot.points)
        and all(len(point) == 2 for point in plot.points)
        and len(plot.labels) in (0, len(plot.points))
        and len(plot.marks) in (0, len(plot.points)),
        "histogram": any(plot.series.values()),
    }
    return "" if whole[plot.kind] else "its data are empty or don't fit together"


def _heatmaps(plots: Mapping[str, Plot]) -> Figure:
    first = next(iter(plots.values()))
    many = max(len(first.rows), len(first.columns)) > MOST_LABELS
    height = 4.2 if many else 0.7 + 0.24 * len(first.rows) + 0.1 * max(len(label(column)) for column in first.columns)
    figure, places = panels(len(plots), height)
    everything = [value for plot in plots.values() for row in plot.values for value in row]
    low, high = min(everything), max(everything)
    image: Any = None
    for index, (axes, (target, plot)) in enumerate(zip(places, plots.items(), strict=True)):
        values = np.array(plot.values)
        image = axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto", interpolation="none")
        axes.set_title(label(target), fontsize=FONT_SIZE)
        if many:
            axes.set(xticks=[], yticks=[], xlabel=f"{values.shape[1]:,} columns", ylabel=f"{values.shape[0]:,} rows")
            continue
        axes.set_xticks(range(len(plot.columns)), [label(column) for column in plot.columns], **_UPRIGHT)
        own = index % 3 == 0 or plot.rows != first.rows
        axes.set_yticks(range(len(plot.rows)), [label(row) for row in plot.rows] if own else [""] * len(plot.rows))
        axes.set_xlabel(label(plot.x_label))
        axes.set_ylabel(label(plot.y_label) if own else "")
        if len(plot.columns) * min(len(plots), 3) <= 24:
            _write_values(axes, values, low, high)
    if image is not None and high > low:
        figure.colorbar(image, ax=places, shrink=0.8, pad=0.01)
    return figure


def _write_values(axes: Axes, values: Any, low: float, high: float) -> None:
    whole = np.array_equal(values, np.round(values))
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        bright = high > low and (value - low) / (high - low) > 0.6
        text = f"{value:.0f}" if whole else f"{value:.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="black" if bright else "white")


def _lines(plots: Mapping[str, Plot]) -> Figure:
    """One line a target, all in one panel; where targets have several lines each, a panel for each."""
    single = all(len(plot.series) == 1 for plot in plots.values())
    figure, places = panels(1 if single else len(plots), 3.6)
    names = list(plots) if single else list(dict.fromkeys(name for plot in plots.values() for name in plot.series))
    shades = dict(zip(names, colours(len(names)), strict=True))
    everywhere = [x for plot in plots.values() for x in plot.x]
    spans = min(everywhere) > 0 and max(everywhere) / min(everywhere) >= 16
    for index, (target, plot) in enumerate(plots.items()):
        axes = places[0 if single else index]
        for name, values in plot.series.items():
            few: Any = {"marker": "o", "markersize": 3} if len(plot.x) <= 20 else {}
            axes.plot(plot.x, values, color=shades[target if single else name], **few)
        tidy(axes, "" if single else target, plot.x_label, plot.y_label if single or index % 3 == 0 else "")
        _x_axis(axes, sorted(set(everywhere)) if single else plot.x, spans)
    _share_y(places)
    _legend(figure, {name: _swatch("-", shade) for name, shade in shades.items()})
    return figure


def _x_axis(axes: Axes, x: list[float], spans: bool) -> None:
    """Logarithmic where it spans much, as dimensions and cutoffs do; few places are named themselves."""
    if spans:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if len(x) <= 10:
        axes.xaxis.set_major_locator(FixedLocator(x))


def _scatters(plots: Mapping[str, Plot]) -> Figure:
    figure, places = panels(len(plots), 3.7)
    names = list(dict.fromkeys(name for plot in plots.values() for name in plot.labels))
    marks = sorted({mark for plot in plots.values() for mark in plot.marks})
    shades = dict(zip(names, colours(len(names)), strict=True))
    shapes = {mark: MARKS[index % len(MARKS)] for index, mark in enumerate(marks)}
    for axes, (target, plot) in zip(places, plots.items(), strict=True):
        points = np.array(plot.points)
        kinds = list(zip(plot.labels or [""] * len(points), plot.marks or [""] * len(points), strict=True))
        for name, mark in dict.fromkeys(kinds):
            chosen = points[[kind == (name, mark) for kind in kinds]]
            axes.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=14,
                color=shades.get(name, "#0072B2"),
                marker=shapes.get(mark, "o"),
                alpha=0.75,
                linewidths=0,
                rasterized=len(points) > MOST_POINTS,
            )
        tidy(axes, target, plot.x_label, plot.y_label)
        axes.set(xticks=[], yticks=[])
    handles = {name: _swatch("o", shade) for name, shade in shades.items()}
    _legend(figure, {**handles, **{mark: _swatch(shape, "#555555") for mark, shape in shapes.items()}})
    return figure


def _histograms(plots: Mapping[str, Plot]) -> Figure:
    first = next(iter(plots.values()))
    figure, places = panels(len(plots), 3.2)
    everything = [value for plot in plots.values() for values in plot.series.values() for value in values]
    edges: Any = np.linspace(min(everything), max(everything), 31) if min(everything) < max(everything) else 1
    names = list(dict.fromkeys(name for plot in plots.values() for name in plot.series))
    shades = dict(zip(names, colours(len(names)), strict=True))
    for index, (axes, (target, plot)) in enumerate(zip(places, plots.items(), strict=True)):
        for name, values in plot.series.items():
            if values:
                axes.hist(values, edges, color=shades[name], histtype="stepfilled", alpha=0.45)
        tidy(axes, target, plot.x_label, first.y_label if index % 3 == 0 else "")
    _share_y(places)
    _legend(figure, {name: _swatch("s", shade) for name, shade in shades.items()})
    return figure


def _share_y(places: list[Axes]) -> None:
    low, high = min(axes.get_ylim()[0] for axes in places), max(axes.get_ylim()[1] for axes in places)
    for axes in places:
        axes.set_ylim(low, high)


def _swatch(shape: str, shade: Any) -> Any:
    return Line2D([], [], color=shade) if shape == "-" else Line2D([], [], color=shade, marker=shape, linestyle="")


def _legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Right of the panels, in as many columns as its height asks for."""
    if handles:
        names = [label(name) for name in handles]
        fits = int(figure.get_figheight() * 72 / (1.6 * FONT_SIZE))
        figure.legend(
            list(handles.values()),
            names,
            loc="outside right upper",
            frameon=False,
            fontsize=FONT_SIZE - 1,
            ncols=-(-len(names) // fits),
            handletextpad=0.4,
        )


_KINDS: dict[str, Callable[[Mapping[str, Plot]], Figure]] = {
    "heatmap": _heatmaps,
    "lines": _lines,
    "scatter": _scatters,
    "histogram": _histograms,
}
