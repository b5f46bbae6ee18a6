"""What every benchmark report says beside its figures: hardware, versions, revision, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from serve_app.bench.describe import cpu_name, git_revision
from serve_app.bench.statistics import spread

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


def describe_run(device: torch.device) -> dict[str, Any]:
    """Date, command, git revision, versions and hardware of this run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"loadtest.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "git": git_revision(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def summarize(times: dict[str, list[float]], tokens: int) -> list[dict[str, Any]]:
    """Median, lowest and highest tokens a second of each contestant, and its ratio to the first round by
    round."""
    first = next(iter(times.values()))
    rows = []
    for name, seconds in times.items():
        rates = [tokens / taken for taken in seconds]
        ratios = [mine / other for mine, other in zip(first, seconds, strict=True)]
        rows.append(
            {
                "name": name,
                "tokens_per_second": spread(rates),
                "relative_to_first": spread(ratios),
                "seconds": seconds,
            }
        )
    return rows


def write_report(report: dict[str, Any], out: Path | None) -> None:
    """Print the table, and write the whole report to `out` if it is given."""
    hardware, workload = report["hardware"], report["workload"]
    print(f"command   {report['command']}")
    print(f"revision  {report['git']}")
    print(f"hardware  {hardware['cpu']}, {hardware['threads']} threads, device {hardware['device']}")
    print(f"workload  {workload['texts']} texts, {workload['tokens']} tokens a round, {workload['rounds']} rounds")
    print(f"\n{'':24}{'tokens/s':>10}{'lowest':>10}{'highest':>10}{'relative':>10}{'spread':>16}")
    for row in report["results"]:
        rate, ratio = row["tokens_per_second"], row["relative_to_first"]
        spread = f"{ratio['lowest']:.2f}-{ratio['highest']:.2f}"
        figures = f"{rate['median']:10.1f}{rate['lowest']:10.1f}{rate['highest']:10.1f}{ratio['median']:10.2f}"
        print(f"{row['name']:24}{figures}{spread:>16}")
    write_json(report, out)


def write_json(report: dict[str, Any], out: Path | None) -> None:
    """Write the whole report to `out` if it is given, its folder made if need be."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
