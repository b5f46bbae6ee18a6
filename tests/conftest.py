"""Fixtures that several test files share; the running service is one of them, started once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.running import RunningService

# Its own deadline of 200 ms a case is one for the machine, which others may be using.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


# Serve imports pandas wherever it's installed, which takes half of the time in which its processes start. Here only `mteb` brings it.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).with_name("without")), os.environ.get("PYTHONPATH")])
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="replicas to kill in the replica-death test")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How tests are spread where several processes run them; see `OneCluster`."""
    return OneCluster(config, log)


class OneCluster(LoadScopeScheduling):
    """Files that start a Ray cluster go to one process, so that there is one cluster at a time and the session's service is started
    once; any other file goes to the process that is free, and so does what is marked `beside`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "cluster" if starts_cluster(self.config.rootpath / file) else file


@cache
def starts_cluster(file: Path) -> bool:
    """Whether a test of this file is marked so."""
    return "mark.cluster" in file.read_text()


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
