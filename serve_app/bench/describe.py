"""What a report says beside its figures: date, command, revision, versions, hardware."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("embedserve", "ray", "torch", "uvloop", "httptools", "numpy")


def describe(command: str) -> dict[str, Any]:
    """Of this run, on this machine: the load generator's, and the target's where it is the same."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "revision": git_revision(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": gpu_names(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "load_before": os.getloadavg()[0],
    }


def git_revision() -> str:
    """Of the working tree this file is in; `unknown` if it's in none, as where the package is installed."""

    def ask(*arguments: str) -> str:
        try:
            run = subprocess.run(  # noqa: S603
                ["git", *arguments],  # noqa: S607
                capture_output=True,
                text=True,
                cwd=Path(__file__).parent,
                check=False,
            )
        except OSError:
            return ""
        return run.stdout.strip() if run.returncode == 0 else ""

    if not ask("ls-files", "--error-unmatch", Path(__file__).name):
        return "unknown"  # some other repository's tree, around an installed package
    changed = " with changes" if ask("status", "--porcelain", "--untracked-files=no") else ""
    return (ask("rev-parse", "HEAD") or "unknown") + changed


def cpu_name() -> str:
    """As the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def gpu_names() -> list[str]:
    """As NVIDIA's driver names them; none if it isn't there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    run = subprocess.run(  # noqa: S603
        [program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in run.stdout.splitlines() if line.strip()] if run.returncode == 0 else []


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
