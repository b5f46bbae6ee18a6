"""Statistics and printed tables that the HTTP benchmark and the soak share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from statistics import linear_regression
from typing import Any

import torch

from loadtest.bench_report import describe_run, write_json
from serve_app.bench.statistics import percentile, spread

__all__ = [
    "describe_service_run",
    "figure",
    "percentile",
    "print_head",
    "slope_per_hour",
    "spread",
    "table",
    "write_json",
]

_MORE_PACKAGES = ("ray", "fastapi", "uvicorn", "uvloop", "httptools")


def describe_service_run() -> dict[str, Any]:
    """`describe_run` of a run on CPU, with the versions that matter to a service."""
    described = describe_run(torch.device("cpu"))
    described["versions"] |= {name: version(name) for name in _MORE_PACKAGES}
    return described


def slope_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of `values` over time, an hour; 0 for fewer than two moments."""
    if len(set(seconds)) < 2:
        return 0.0
    return linear_regression(seconds, values).slope * 3600


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Text columns: names to the left, figures to the right."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    right = [bool(rows) and all(_is_figure(row[i]) for row in cells[1:]) for i in range(len(columns))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def figure(values: dict[str, float], digits: int = 1, unit: str = "") -> str:
    """A spread as `median (lowest-highest)`."""
    median, lowest, highest = (f"{values[key]:,.{digits}f}" for key in ("median", "lowest", "highest"))
    return f"{median}{unit} ({lowest}-{highest})"


def print_head(report: dict[str, Any]) -> None:
    """What every report says first."""
    hardware = report["hardware"]
    print(f"command   {report['command']}")
    print(f"revision  {report['git']}")
    print(f"hardware  {hardware['cpu']}, {hardware['cpus']} cores, device {hardware['device']}")
    print(f"versions  {', '.join(f'{name} {value}' for name, value in report['versions'].items())}")


def _is_figure(cell: str) -> bool:
    return cell == "" or cell[0].isdigit() or cell[0] in "-+"
