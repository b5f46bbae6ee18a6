"""The HTML page, for readers who have never seen the project: every plot with axes and units, and how it all was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from serve_app.bench import plots
from serve_app.bench.money import Line

TEMPLATE = Path(__file__).with_name("page.html")
RATIO_KEYS = ("requests_per_second", "reference_tokens_per_second", "p50_ms", "p95_ms", "p99_ms", "dollars_per_million")


def render(report: dict[str, Any], lines: Mapping[str, list[Line]]) -> str:
    """The page of a report; `lines` are the prices to compare with, by workload."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "spread": _spread,
        "ratio": _ratio,
        "dollars": _dollars,
        "plain": lambda value: f"{value:g}",
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    names = [target["name"] for target in report["targets"]]
    return template.render(
        report,
        names=names,
        workloads=[_workload(report, workload, names, lines) for workload in report["workloads"]],
        lines=lines,
        ratio_keys=RATIO_KEYS,
        local=[target["name"] for target in report["targets"] if target["local"]],
        remote=[target["name"] for target in report["targets"] if not target["local"]],
        checked=sum(row["checked"] for row in report["rounds"]),
        wrong=sum(row["wrong"] for row in report["rounds"]),
    )


def _workload(
    report: dict[str, Any], workload: dict[str, Any], names: list[str], lines: Mapping[str, list[Line]]
) -> dict[str, Any]:
    name = workload["name"]
    summary = [row for row in report["summary"] if row["workload"] == name]
    distributions = [row for row in report["distributions"] if row["workload"] == name]
    found = machines(report, name)
    return {
        **workload,
        "summary": [{"first_is": None, **row} for row in summary],
        "first_errors": {row["load"]: row["errors"] for row in summary if row["target"] == names[0]},
        "machines": found,
        "cdf": plots.latency_cdf(distributions, names),
        "curve": plots.throughput_latency(summary, names),
        "stages": plots.stage_bars(distributions),
        "cost": plots.cost_utilisation(found, lines[name], names),
    }


def machines(report: dict[str, Any], workload: str) -> list[tuple[str, float, float]]:
    """Of each target whose machine has a price: its name, dollars an hour, and its highest median of reference tokens a second."""
    found = []
    for target in report["targets"]:
        rates = [
            row["reference_tokens_per_second"]["median"]
            for row in report["summary"]
            if (row["workload"], row["target"]) == (workload, target["name"]) and row["reference_tokens_per_second"]
        ]
        if target["hourly"] and rates:
            found.append((target["name"], target["hourly"], max(rates)))
    return found


def _spread(values: dict[str, float] | None, form: str) -> Markup:
    if values is None:
        return Markup("–")
    median, lowest, highest = (_figure(values[key], form) for key in ("median", "lowest", "highest"))
    return Markup('{}<br><span class="s">{} to {}</span>').format(median, lowest, highest)


def _ratio(values: dict[str, float] | None) -> Markup:
    if values is None or "from" not in values:
        return _spread(values, "%.2f")
    return Markup('{:.2f}<br><span class="s">95 %: {:.2f} to {:.2f}</span>').format(
        values["median"], values["from"], values["to"]
    )


def _figure(value: float, form: str) -> str:
    return f"{value:,{form.removeprefix('%')}}"


def _dollars(value: float | None) -> str:
    return "–" if value is None else f"${value:.4g}"
