"""The report's plots, as SVG to be set into a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from serve_app.bench.money import Line
from serve_app.bench.record import STAGES
from serve_app.telemetry.cost import usd_per_million

Row = dict[str, Any]

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STAGE_COLOURS = dict(zip((*STAGES, "rest"), ("#56B4E9", "#E69F00", "#0072B2", "#009E73", "#BBBBBB"), strict=True))
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "embedserve", "font.family": "sans-serif", "font.size": 9}
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")
_CENTS = FuncFormatter(lambda value, _: f"${value:,.10g}")


def latency_cdf(distributions: Sequence[Row], targets: Sequence[str]) -> str:
    """Share of requests answered within a time, a panel for each load of one workload."""
    loads = list(dict.fromkeys(row["load"] for row in distributions))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(4.5, 3.1 * len(loads)), 3.2), layout="constrained")
        panels = figure.subplots(1, len(loads), sharey=True, squeeze=False)[0]
        for panel, load in zip(panels, loads, strict=True):
            for row in distributions:
                if row["load"] == load and "quantiles_ms" in row:
                    shares, times = zip(*row["quantiles_ms"], strict=True)
                    panel.plot(times, shares, color=colour(row["target"], targets), label=row["target"])
            _axes(panel, load, "latency, milliseconds (log)", log_x=True)
        panels[0].set_ylabel("requests answered within, percent")
        panels[0].legend(loc="lower right", frameon=False)
        return _svg(figure)


def throughput_latency(summary: Sequence[Row], targets: Sequence[str]) -> str:
    """Median and 99th percentile latency over throughput, a point for each load of one workload."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.subplots()
        for name in targets:
            mine = [row for row in summary if row["target"] == name and row["p50_ms"] and row["p99_ms"]]
            closed = [row for row in mine if not row["open"]]
            for key, style, label in (("p50_ms", "-", "p50"), ("p99_ms", "--", "p99")):
                axes.plot(
                    *_points(closed, key),
                    style,
                    marker="o",
                    color=colour(name, targets),
                    label=f"{name}, {label}",
                )
                axes.plot(*_points([row for row in mine if row["open"]], key), "x", color=colour(name, targets))
            for row in closed:
                place = (row["requests_per_second"]["median"], row["p99_ms"]["median"])
                text = row["load"].removesuffix("s").removesuffix(" caller")
                axes.annotate(text, place, (3, 4), textcoords="offset points", color=colour(name, targets))
        _axes(axes, "Small figures: callers at once. ×: at a fixed rate.", "requests answered a second")
        axes.set_ylabel("latency, milliseconds (log)")
        axes.set_yscale("log")
        _log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlim(left=0)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _svg(figure)


def stage_bars(distributions: Sequence[Row]) -> str:
    """Where the mean latency goes, for each target and load of one workload whose replies name the stages; empty if none do."""
    told = [row for row in distributions if row["stages_ms"]]
    if not told:
        return ""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7, 1.1 + 0.38 * len(told)), layout="constrained")
        axes = figure.subplots()
        names = [f"{row['target']}, {row['load']}" for row in told]
        left = np.zeros(len(told))
        for stage, shade in STAGE_COLOURS.items():
            widths = np.array([row["stages_ms"][stage] for row in told])
            axes.barh(names, widths, left=left, color=shade, label=stage, height=0.6)
            left += widths
        axes.invert_yaxis()
        _axes(axes, "", "mean latency, milliseconds")
        axes.grid(visible=False, axis="y")
        axes.legend(frameon=False, ncols=len(STAGE_COLOURS), loc="lower left", bbox_to_anchor=(0.0, 1.0))
        return _svg(figure)


def cost_utilisation(
    machines: Sequence[tuple[str, float, float]], lines: Sequence[Line], targets: Sequence[str]
) -> str:
    """Dollars a million reference tokens over the share of the full rate that is used. `machines` are (name, dollars an hour,
    reference tokens a second at full rate); below a line a curve's machine is the cheaper one. Empty without machines."""
    if not machines:
        return ""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.subplots()
        used = np.geomspace(0.01, 1.0, 100)
        for name, hourly, rate in machines:
            shade = colour(name, targets)
            axes.plot(100 * used, [usd_per_million(hourly, rate, float(u)) for u in used], color=shade, label=name)
            for line in lines:
                if 0.01 <= (even := line.utilisation(hourly, rate)) <= 1:
                    axes.plot([100 * even], [line.dollars], "o", color=shade)
                    axes.annotate(f"{100 * even:.2g}%", (100 * even, line.dollars), (4, 4), textcoords="offset points")
        for line in lines:
            axes.axhline(line.dollars, color="#777777", linewidth=0.8, linestyle=":")
        _axes(axes, "", "utilisation, percent of the full rate, day and night (log)", log_x=True)
        axes.set_ylabel("US dollars for a million reference tokens (log)")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_CENTS)
        axes.legend(frameon=False, loc="lower left")
        for line, height in zip(lines, _apart(axes, [line.dollars for line in lines]), strict=True):
            name = f"{line.name} ${line.dollars:.3g}"
            axes.text(1.01, height, name, transform=axes.transAxes, va="center", fontsize=8)
        return _svg(figure)


def colour(name: str, targets: Sequence[str]) -> str:
    """A target's, the same in all plots."""
    return COLOURS[list(targets).index(name) % len(COLOURS)]


def _points(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    return [row["requests_per_second"]["median"] for row in rows], [row[key]["median"] for row in rows]


def _axes(axes: Axes, title: str, across: str, log_x: bool = False) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if log_x:
        axes.set_xscale("log")
        _log_ticks(axes.xaxis, *axes.get_xlim())


def _log_ticks(axis: Axis, lowest: float, highest: float) -> None:
    """Plain numbers, few over many decades and more within one."""
    decades = np.log10(highest / max(lowest, 1e-12))
    axis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if decades > 1 else (1, 1.5, 2, 3, 4, 5, 6, 8) if decades > 0.5 else "all")
    )
    axis.set_major_formatter(_PLAIN)
    axis.set_minor_locator(NullLocator())


def _apart(axes: Axes, values: Sequence[float], least: float = 0.045) -> list[float]:
    """Heights, as a share of the axis, of labels at these falling values of a log axis: moved down where two would overlap."""
    lowest, highest = np.log(axes.get_ylim())
    heights: list[float] = []
    for value in values:
        height = float((np.log(value) - lowest) / (highest - lowest)) if value > 0 else 0.0
        heights.append(min(height, heights[-1] - least) if heights else height)
    return heights


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
