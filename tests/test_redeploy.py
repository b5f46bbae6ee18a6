"""Redeploying, changing settings, scaling down and stopping under load: nobody notices."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.cluster.environment import run_directory
from serve_app.cluster.instance import free_port
from tests.running import RunningService
from tests.steady_load import steady_load, until

pytestmark = pytest.mark.cluster
ARGS = {"num_cpus": 0.5, "num_gpus": 0, "replicas": 2, "gateways": 2}
LARGE = {"model": "demo", "input": [f"number {n} " + "word " * 60 for n in range(400)]}


@dataclass
class Deployed:
    """A service with Ray's REST API, which is what `serve deploy` talks to."""

    service: RunningService
    api: str

    def deploy(self, args: dict[str, Any], **deployments: dict[str, Any]) -> None:
        application = {
            "name": "embedserve",
            "route_prefix": "/",
            "import_path": "serve_app:build",
            "args": ARGS | args,
            "deployments": [{"name": name, **options} for name, options in deployments.items()],
        }
        config = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": self.service.port},
            "applications": [application],
        }
        reply = httpx.put(f"{self.api}/api/serve/applications/", json=config, timeout=30)
        assert reply.status_code == 200, reply.text

    def status(self) -> dict[str, Any]:
        reply = httpx.get(f"{self.api}/api/serve/applications/", timeout=30)
        found: dict[str, Any] = reply.json()["applications"]["embedserve"]
        return found

    async def settled(self) -> None:
        """Return once Serve says that everything is as it was asked for."""
        await asyncio.sleep(1.0)  # in which Serve looks at what it was given
        await until(lambda: self.status()["status"] == "RUNNING", "the application runs")
        healthy = {deployment["status"] for deployment in self.status()["deployments"].values()}
        assert healthy == {"HEALTHY"}

    def pids(self, *deployments: str) -> set[int]:
        """The processes of these deployments that serve, those not counted that are on their way out."""
        found = self.status()["deployments"]
        return {
            replica["pid"]
            for name in deployments
            for replica in found[name]["replicas"]
            if replica["state"] == "RUNNING"
        }

    async def status_of(self, body: dict[str, Any]) -> int:
        """The status that this request is answered with."""
        async with httpx.AsyncClient(timeout=60) as client:
            reply = await client.post(f"{self.service.base_url}/embeddings", json=body)
        return reply.status_code


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    log = tmp_path_factory.mktemp("redeploy") / "up.log"
    dashboard = free_port()
    settings = [part for name, value in ARGS.items() for part in ("--set", f"{name}={value}")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # the REST API wants a token otherwise
        with RunningService.start(log, "--dashboard-port", str(dashboard), *settings) as service:
            yield Deployed(service, f"http://127.0.0.1:{dashboard}")
    assert service.leftovers() == []


async def test_another_model_replaces_every_replica(deployed: Deployed, demo_folder: Path, tmp_path: Path) -> None:
    """Old gateways must not use new replicas, nor new gateways old ones; what the old ones have accepted is still answered."""
    another = shutil.copytree(demo_folder, tmp_path / "another")
    async with steady_load(deployed.service.base_url) as load:
        await load.goes_on()
        before = deployed.pids("Gateway", "Embedder")
        deployed.deploy({"model": str(another), "served_model_name": "embedserve/demo"})
        await deployed.settled()
        after = deployed.pids("Gateway", "Embedder")
        assert len(before) == len(after) == 4
        assert not before & after
        await load.goes_on()
    print(f"{load.answered} requests, slowest {load.slowest:.2f} s")


async def test_a_single_replica_is_replaced_without_a_place_for_another(deployed: Deployed) -> None:
    alone = {"replicas": 1, "max_surge_percent": 0}
    deployed.deploy(alone)
    await deployed.settled()
    async with steady_load(deployed.service.base_url) as load:
        await load.goes_on()
        before = deployed.pids("Embedder")
        deployed.deploy(alone | {"threads": 1})
        await deployed.settled()
        assert not before & deployed.pids("Embedder")
        await load.goes_on()
    print(f"{load.answered} requests, slowest {load.slowest:.2f} s")


async def test_user_config_changes_settings_in_the_running_replicas(deployed: Deployed) -> None:
    deployed.deploy({})
    await deployed.settled()
    before = deployed.pids("Gateway", "Embedder")
    assert await deployed.status_of(LARGE) == 200
    async with steady_load(deployed.service.base_url) as load:
        await load.goes_on()
        live = {"limits": {"max_request_tokens": 8192, "max_body_bytes": 100_000}, "dispatch.chunk_inputs": 4}
        deployed.deploy({}, Gateway={"user_config": live}, Embedder={"user_config": {"batch": {"max_inputs": 3}}})
        await deployed.settled()
        assert await deployed.status_of(LARGE) == 413
        await load.goes_on()

        # One that can't be applied: everything goes on as it was, and the log says why.
        deployed.deploy({}, Gateway={"user_config": {"limits": {"max_inputs": 0}}})
        await deployed.settled()
        await load.goes_on()
        assert "user_config can't be applied" in deployed.service.log.read_text()
        assert "limits.max_inputs" in deployed.service.log.read_text()
        assert await deployed.status_of(LARGE) == 413

        # None at all: as the arguments say.
        deployed.deploy({})
        await deployed.settled()
        assert await deployed.status_of(LARGE) == 200
    assert deployed.pids("Gateway", "Embedder") == before
    print(f"{load.answered} requests, slowest {load.slowest:.2f} s")


async def test_scaling_down_finishes_what_was_accepted(deployed: Deployed) -> None:
    async with steady_load(deployed.service.base_url) as load:
        await load.goes_on()
        for embedders, gateways in ((1, 2), (1, 1), (2, 2)):
            deployed.deploy({}, Embedder={"num_replicas": embedders}, Gateway={"num_replicas": gateways})
            await deployed.settled()
            assert len(deployed.pids("Embedder")) == embedders
            assert len(deployed.pids("Gateway")) == gateways
            await load.goes_on()
        print(f"{load.answered} requests, slowest {load.slowest:.2f} s")


def test_a_signal_that_ray_gets_too_ends_it_all_the_same(deployed: Deployed) -> None:
    """systemd and `timeout` signal every process of the group: Ray's own are gone before anything can be asked of them."""
    assert deployed.service.stop(signal.SIGTERM, group=True) == 0
    assert deployed.service.leftovers() == []
    assert not run_directory(deployed.service.port).exists()
