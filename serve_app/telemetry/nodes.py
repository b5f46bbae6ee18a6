"""The numbers of all nodes, over Ray: one exporter actor per node reads that node's directory, gateways ask all of them and add.

Whatever is shown was first written to the cluster's key-value store (GCS) under the directory's id. A node that is gone, or doesn't
answer, is taken from there: it may lag, but sums don't go backwards. Several Ray nodes of one machine may share a directory; it
counts once, by its id.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import ray
from prometheus_client import start_http_server
from ray._private import worker
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_app import __version__
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.exposition import SnapshotCollector
from serve_app.telemetry.snapshot import Snapshot, add_all

T = TypeVar("T")

logger = logging.getLogger(__name__)

NAMESPACE = "embedserve_metrics"

# How often an exporter looks by itself, which is what a node's death can cost; and gateways, for nodes that joined.
LOOK_SECONDS = 5.0

# An exporter that no gateway speaks to any more ends itself.
FORGOTTEN_SECONDS = 120.0

# How long a scrape waits for what is remote; and for this node's exporter, which it can do without.
PATIENCE_SECONDS = 3.0
OWN_PATIENCE_SECONDS = 1.0


def node_directory(application: str, override: str | None = None) -> MetricsDirectory:
    """Where the processes of an application count on this node: in Ray's own folder for the session, unless set."""
    return MetricsDirectory((Path(override) if override else session_folder()) / f"metrics-{application}")


def session_folder() -> Path:
    """Where Ray keeps what belongs to this node and this start of the cluster."""
    return Path(worker._global_node.get_session_dir_path()) / "embedserve"


def take(directory: MetricsDirectory, application: str) -> tuple[str, bytes]:
    """The directory's id and what it says now, after that is in the store; the dead are merged on the way.

    Raises OSError, `TimeoutError` if another process holds the directory.
    """
    if not directory.path.exists():
        return "", Snapshot().encode()
    with directory.merging():
        directory.merge_dead()
        taken = directory.read()
        key = f"{application}/{directory.id}"
        internal_kv._internal_kv_put(key, taken.lasting().encode(), overwrite=True, namespace=NAMESPACE)
    return directory.id, taken.encode()


class NodeExporter:
    """The actor: reads its node's directory when asked, and now and then by itself."""

    def __init__(self, application: str, directory: str | None, http_port: int | None) -> None:
        self._application = application
        self._directory = node_directory(application, directory)
        self._spoken_to = time.monotonic()
        self._myself = ray.get_runtime_context().current_actor
        if http_port is not None:
            self._serve(http_port)
        threading.Thread(target=self._look, daemon=True).start()

    def take(self) -> tuple[str, bytes]:
        """See `take`."""
        self._spoken_to = time.monotonic()
        return take(self._directory, self._application)

    def keep(self) -> None:
        """Stay."""
        self._spoken_to = time.monotonic()

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                take(self._directory, self._application)
            except Exception as error:
                logger.warning("The node's metrics could not be kept: %r", error)
            if time.monotonic() - self._spoken_to > FORGOTTEN_SECONDS:
                ray.kill(self._myself)
                return

    def _serve(self, port: int) -> None:
        def node() -> Snapshot:
            return Snapshot.decode(take(self._directory, self._application)[1])

        try:
            start_http_server(port, registry=SnapshotCollector(node))
        except OSError as error:
            logger.error("Metrics of this node can't be served on port %d: %s", port, error)


class Nodes:
    """A gateway's way to the numbers of the whole cluster. Every exporter is started with the same settings."""

    def __init__(self, application: str, directory: str | None = None, http_port: int | None = None) -> None:
        self._application = application
        self._settings = (application, directory, http_port)
        self.own = node_directory(application, directory)
        self._own_node = ""
        self._exporters: dict[str, Any] = {}
        self._seen: dict[str, bytes] = {}
        # Own threads: what waits for the store must not keep requests waiting.
        self._threads = ThreadPoolExecutor(2, "metrics")

    async def keep(self) -> None:
        """See to it that every living node has an exporter, again and again, until cancelled."""
        while True:
            try:
                await self._in_thread(self._start_missing)
                for exporter in self._exporters.values():
                    exporter.keep.options(max_task_retries=0).remote()  # the next one is soon
            except Exception as error:
                logger.warning("Looking for nodes to read metrics from failed: %r", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def total(self) -> Snapshot:
        """What the whole cluster has counted, as of now but for nodes that don't answer. Raises OSError, as files do."""
        return add_all((await self.by_directory()).values())

    async def by_directory(self) -> dict[str, Snapshot]:
        """The same by the ids of the directories in which it was counted."""
        asked = {asyncio.ensure_future(exporter.take.remote()): node for node, exporter in self._exporters.items()}
        answers = await self._answers(asked, OWN_PATIENCE_SECONDS)
        if self.own.path.exists() and self.own.id not in answers:
            answers |= await self._read_own()
            asked = {task: node for task, node in asked.items() if node != self._own_node}
        answers |= await self._answers(asked, PATIENCE_SECONDS)
        for task in asked:
            task.cancel()
        gone = await self._remembered(answers.keys())
        self._seen |= answers | gone
        return {id_: Snapshot.decode(data) for id_, data in answers.items()} | {
            id_: Snapshot.decode(data).lasting() for id_, data in gone.items()
        }

    async def _answers(self, asked: dict[asyncio.Future[Any], str], patience: float) -> dict[str, bytes]:
        """What comes within `patience` seconds, by the directory's id."""
        if asked:
            await asyncio.wait(asked, timeout=patience)
        answers: dict[str, bytes] = {}
        for task, node in asked.items():
            if not task.done():
                continue
            if (error := task.exception()) is not None:
                logger.warning("The metrics exporter of node %s failed: %r", node, error)
                self._exporters.pop(node, None)  # to be looked up anew
            elif task.result()[0]:
                answers |= dict([task.result()])
        return answers

    async def _read_own(self) -> dict[str, bytes]:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return dict([await self._in_thread(take, self.own, self._application)])
        except Exception as error:
            # The store is away, or whoever holds the directory is paused: what is read without them is as true.
            logger.warning("This node's metrics could not be kept: %r", error)
            return {self.own.id: (await asyncio.to_thread(self.own.read)).encode()}

    async def _remembered(self, answered: Collection[str]) -> dict[str, bytes]:
        """The latest numbers of the directories that didn't answer."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._in_thread(self._stored, answered)
        except Exception as error:
            logger.warning("The store of metrics didn't answer: %r", error)
            return {id_: data for id_, data in self._seen.items() if id_ not in answered}

    def _stored(self, answered: Collection[str]) -> dict[str, bytes]:
        prefix = f"{self._application}/"
        ids = [key.decode().removeprefix(prefix) for key in internal_kv._internal_kv_list(prefix, namespace=NAMESPACE)]
        found = {
            id_: internal_kv._internal_kv_get(prefix + id_, namespace=NAMESPACE) for id_ in ids if id_ not in answered
        }
        return {id_: data for id_, data in found.items() if data is not None}

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _start_missing(self) -> None:
        self._own_node = ray.get_runtime_context().get_node_id()
        living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self._exporters = {node: self._exporters.get(node) or self._exporter(node) for node in living}

    def _exporter(self, node: str) -> Any:
        return (
            ray.remote(NodeExporter)
            .options(
                name=f"{self._application}/{__version__}/{node}",
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",  # it mustn't end with the gateway that happened to be first
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(*self._settings)
        )
