"""A Ray cluster of several nodes on this machine, each with its own HAProxy, that serves the product's application.

The head has the controller and a gateway, but no GPU. Each worker has logical GPUs, so that Embedders land there and only there, and
a gateway. Serve's configuration file format says so, under `deployments:`; the application itself is `serve_app:build` with its
engines on the CPU. So every single process but the head's own can be lost while another one of its kind is left.

`node_environment` of the head must be in this process's environment before Ray is imported.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema

from loadtest.chaos_environment import free_ports, node_environment
from loadtest.chaos_node import APPLICATION, Node
from loadtest.chaos_reaper import Reaper
from serve_app.cluster.environment import Ports, run_directory
from serve_app.cluster.haproxy import stop_strays
from serve_app.cluster.processes import gone, kill
from serve_app.types import DEMO_MODEL_ID

START_SECONDS = 300.0
NODE_CPUS = 4
WORKER_GPUS = 2
OBJECT_STORE_BYTES = 80 * 1024 * 1024


class ChaosCluster:
    """Head and workers; `embedders` replicas and a gateway on each node. `seen` are all processes that were ever looked at."""

    def __init__(self, head: Ports, workers: int, embedders: int) -> None:
        self.embedders = embedders
        self.seen: dict[psutil.Process, None] = {}
        self.nodes: list[Node] = []
        self._directories: list[Path] = []
        self._reaper = Reaper()
        self._ray = Cluster()
        try:
            self._add("head", head, gpus=0)
            for number in range(1, workers + 1):
                self._add(f"worker {number}", free_ports(), gpus=WORKER_GPUS)
            ray.init(address=self._ray.address, namespace="serve", log_to_driver=False, logging_level="ERROR")
            http = {"host": "0.0.0.0", "port": head.http}  # noqa: S104
            self._client = serve_start(http_options=http, proxy_location="EveryNode")
        except BaseException:
            self.stop()
            raise

    @property
    def workers(self) -> list[Node]:
        return self.nodes[1:]

    def replicas(self, deployment: str) -> list[tuple[Node, psutil.Process]]:
        """The living replicas of a deployment, each with its node."""
        return [(node, process) for node in self.nodes for process in node.replicas(deployment)]

    def deploy(self, import_path: str = "serve_app:build") -> None:
        """Serve an application, in place of the one before; returns once every node answers through it."""
        config = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "0.0.0.0", "port": self.nodes[0].ports.http},  # noqa: S104
            "logging_config": {"log_level": "WARNING"},
            "applications": [self._application(import_path)],
        }
        before = [process for deployment in ("Embedder", "Gateway") for _, process in self.replicas(deployment)]
        if before:
            serve.delete(APPLICATION)  # quicker than a rolling update
        self._client.deploy_apps(ServeDeploySchema.model_validate(config))
        wait_until(lambda: all(map(gone, before)) and self.whole(), START_SECONDS, "the application runs on every node")

    def whole(self) -> bool:
        """Whether all of it is there and serves, as far as processes, Serve and every node's port say."""
        if len(self.replicas("Embedder")) != self.embedders:
            return False
        if any(not node.haproxies() or len(node.replicas("Gateway")) != 1 for node in self.nodes):
            return False
        return bool(self.nodes[0].titled("ServeController")) and self._serve_is_content() and self._ports_answer()

    def replace(self, node: Node) -> None:
        """Take a dead node out, and start a new one on its ports."""
        self._ray.remove_node(node.ray, allow_graceful=False)
        self.nodes.remove(node)
        self._add(node.name, node.ports, gpus=WORKER_GPUS)

    def look(self) -> None:
        """Remember all processes there are, to be sure at the end that they're gone."""
        for process in [process for node in self.nodes for process in node.processes()]:
            if process not in self.seen:
                self.seen[process] = None
                self._reaper.watch(process)

    def stop(self) -> list[str]:
        """End all of it at once; returns what that had left, killed by now."""
        self.look()
        ray.shutdown()
        kill(process for node in self.nodes for process in node.haproxies())
        self._ray.shutdown()
        psutil.wait_procs(list(self.seen), timeout=5)
        left = [process for process in self.seen if not gone(process)]
        kill(left)
        for directory in self._directories:
            while stop_strays(directory, patience_seconds=0):
                time.sleep(0.1)
            shutil.rmtree(directory, ignore_errors=True)
        self._reaper.finish()
        return [f"process {process.pid}" for process in left]

    def _add(self, name: str, ports: Ports, gpus: int) -> None:
        self._directories.append(run_directory(ports.http))
        self._reaper.watch(self._directories[-1])
        added = self._ray.add_node(
            num_cpus=NODE_CPUS,
            num_gpus=gpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            env_vars=node_environment(ports),
        )
        self.nodes.append(Node(name, ports, added))
        self.look()

    def _application(self, import_path: str) -> dict[str, Any]:
        return {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": import_path,
            "args": {
                "model": DEMO_MODEL_ID,
                "replicas": self.embedders,
                "gateways": len(self.nodes),
                "num_gpus": 0,  # the engines' device; the placement is below
                "threads": 1,
            },
            "deployments": [
                {"name": "Embedder", "ray_actor_options": {"num_cpus": 0, "num_gpus": 1}},
                {"name": "Gateway", "ray_actor_options": {"num_cpus": 0}, "max_replicas_per_node": 1},
            ],
        }

    def _serve_is_content(self) -> bool:
        try:
            application = serve.status().applications[APPLICATION]
        except Exception:  # the controller may be dead just now
            return False
        counts = {name: dict(each.replica_states) for name, each in application.deployments.items()}
        wanted = {"Embedder": {"RUNNING": self.embedders}, "Gateway": {"RUNNING": len(self.nodes)}}
        if application.status == "DEPLOY_FAILED":
            raise RuntimeError(f"The application can't be deployed: {application.message[-2000:]}")
        return application.status == "RUNNING" and counts == wanted

    def _ports_answer(self) -> bool:
        try:
            return all(httpx.get(f"{node.url}/health", timeout=2).status_code == 200 for node in self.nodes)
        except httpx.HTTPError:
            return False


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds that it took; raises `TimeoutError`."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - begin
