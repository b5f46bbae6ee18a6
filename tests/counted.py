"""This process counting in a directory of its own, for the length of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import values

from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.process import count_in


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsDirectory]:
    """The directory in which everything made in the test counts."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    directory = MetricsDirectory(tmp_path / "metrics")
    count_in(directory)
    yield directory


def total(directory: MetricsDirectory, name: str, **labels: str) -> float | None:
    """The value of one series, None if there's none."""
    return directory.read().totals().get((f"embedserve_{name}", tuple(sorted(labels.items()))))
