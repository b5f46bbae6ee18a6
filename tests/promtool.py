"""The real `prometheus` and `promtool`, as Debian packages them: found, run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = [DEPLOY / "prometheus" / f"{name}.rules.yml" for name in ("recording", "alerts")]


def binary(name: str) -> str:
    """Path of `prometheus` or `promtool`; fails, saying what to do, where it isn't installed."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} wasn't found: `make prometheus` puts it beside this Python"
    return found


def promtool(*arguments: str | Path, stdin: str | None = None) -> str:
    """Its output; fails if it isn't content."""
    done = subprocess.run(
        [binary("promtool"), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
