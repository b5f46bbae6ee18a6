"""What every benchmark report says beside its figures: hardware, versions, revision, command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


def describe_run(device: torch.device) -> dict[str, Any]:
    """Date, command, git revision, versions and hardware of this run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"loadtest.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "git": _git(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "hardware": {
            "cpu": _cpu_name(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest. Raises `ValueError` if there are none."""
    if len(values) == 0:
        raise ValueError("no values")
    return {"median": float(np.median(values)), "lowest": float(min(values)), "highest": float(max(values))}


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


def _git() -> str:
    def ask(*arguments: str) -> str:
        run = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
        return run.stdout.strip()

    changed = " with changes" if ask("status", "--porcelain", "--untracked-files=no") else ""
    return (ask("rev-parse", "HEAD") or "unknown") + changed


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
