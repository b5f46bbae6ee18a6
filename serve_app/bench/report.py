"""The report: everything in one dictionary, which is the JSON file; the rounds as CSV; and one HTML page that needs no other file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import orjson

from serve_app.bench.money import Line
from serve_app.bench.page import render
from serve_app.types import DEMO_MODEL_ID

Report = dict[str, Any]

BUSY_GENERATOR = 0.85
LATE_MS = 20.0


def warnings(report: Report) -> list[str]:
    """What a reader of the figures has to know before the figures."""
    found = [
        f"{target['name']} serves the demo checkpoint, a toy: its dollars say nothing about what a real model costs."
        for target in report["targets"]
        if target["model"] == DEMO_MODEL_ID
    ]
    for row in report["summary"]:
        place = f"{row['target']}, workload {row['workload']}, {row['load']}"
        if row["generator_cpu"] > BUSY_GENERATOR:
            found.append(
                f"{place}: the load generator used {100 * row['generator_cpu']:.0f} % of its core. The target could do more."
            )
        if row["open"] and row["lag_p99_ms"] > LATE_MS:
            found.append(
                f"{place}: requests left up to {row['lag_p99_ms']:.0f} ms (p99) late; the latencies, which count from when they"
                " were due, have that in them."
            )
        if row["wrong"]:
            found.append(f"{place}: {row['wrong']} of the replies that were read whole were wrong.")
        if row["error_share"] > 0.01:
            found.append(
                f"{place}: {100 * row['error_share']:.2g} % of the requests failed; the latencies are of the others."
            )
    for target, messages in report["messages"].items():
        found += [f"{target}, {count} times: {text}" for text, count in messages.items()]
    return found


def write(report: Report, lines: dict[str, list[Line]], folder: Path) -> list[Path]:
    """`report.json`, `report.csv` and `report.html` in `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.json": orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n",
        "report.csv": table(report["rounds"]).encode(),
        "report.html": render(report, lines).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def table(rows: list[dict[str, Any]]) -> str:
    """CSV, a line for each round of a target; what isn't known is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
