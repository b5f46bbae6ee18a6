"""Fixtures that several test files share; the running service is one of them, started once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import RunningService


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="replicas to kill in the replica-death test")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """`embedserve up` with the demo checkpoint, two Embedder replicas and two gateways, as a user starts it."""
    log = tmp_path_factory.mktemp("service") / "up.log"
    with RunningService.start(log, "--replicas", "2", "--gateways", "2", "--set", "num_cpus=0.5") as running:
        yield running
    assert running.leftovers() == []


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The demo checkpoint's folder."""
    from serve_app.engine.demo import demo_checkpoint

    return demo_checkpoint()
