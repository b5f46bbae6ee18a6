"""A replica: receives envelopes, batches their inputs with everybody else's, answers with vectors."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from ray import serve

from serve_app.cluster.autoscaling_policy import COMPUTED, HELD_BACK, QUEUED, RATE, RUNNING
from serve_app.cluster.chunk import ChunkServer
from serve_app.cluster.embedder_telemetry import EmbedderTelemetry, held_devices
from serve_app.cluster.live import LiveSettings
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.vitals import vitals
from serve_app.config import EMBEDDER_LIVE, Settings
from serve_app.engine.queue import QueuePolicy
from serve_app.telemetry.lifetime import Lifetime
from serve_app.telemetry.nodes import node_directory
from serve_app.telemetry.process import count_in
from serve_app.types import ChunkReply, Envelope, Ping, ReplicaStatus


class Embedder:
    """The Serve deployment around one engine.

    Reaches Serve's RUNNING state only after the model is loaded, checked and warmed up; becomes unhealthy, and is replaced, when its
    engine thread dies.
    """

    def __init__(self, settings: Settings, num_gpus: float) -> None:
        context = serve.get_replica_context()
        replica: str = context.replica_id.unique_id
        count_in(node_directory(context.app_name, settings.metrics.directory))
        Lifetime("Embedder", *held_devices(settings, num_gpus))
        started = time.monotonic()
        loaded = self.load(settings, num_gpus)
        self._telemetry = EmbedderTelemetry(settings, num_gpus, loaded, replica, time.monotonic() - started)
        self._batcher = loaded.batcher
        self._keep_prefixes = loaded.keep_prefixes
        self._chunks = ChunkServer(self._batcher, replica, loaded.model)
        self._batch_tokens = loaded.batch_tokens
        self._live = LiveSettings(settings, EMBEDDER_LIVE, self._apply)

    @staticmethod
    def load(settings: Settings, num_gpus: float) -> Loaded:
        """See `load_batcher`."""
        # torch is imported here and not above: the process that builds the graph needs neither it nor a GPU.
        from serve_app.cluster.engine_host import load_batcher  # noqa: PLC0415

        return load_batcher(settings, num_gpus)

    async def embed(self, envelope: Envelope, replica: str | None = None) -> ChunkReply:
        """See `ChunkServer.embed`. `replica` is for the router, which has read it."""
        return await self._chunks.embed(envelope)

    async def cancel(self, what: tuple[str, npt.NDArray[np.uint64]], replica: str | None = None) -> None:
        """Drop a gateway's inputs that haven't started."""
        gateway, ids = what
        self._chunks.cancel(gateway, ids.tolist())

    async def ping(self, ping: Ping | None = None, replica: str | None = None) -> ReplicaStatus:
        """See `ChunkServer.ping`."""
        return self._chunks.ping(ping)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `BacklogPolicy` reads. Serve asks for it every interval; a value that is no number would make it stop asking."""
        batcher = self._batcher
        return {
            RUNNING: float(batcher.running_tokens),
            QUEUED: float(batcher.outstanding_tokens - batcher.running_tokens),
            COMPUTED: float(batcher.computed_tokens),
            RATE: float(batcher.tokens_per_second),
            HELD_BACK: float(self._chunks.backlogs.total()),
        }

    async def vitals(self) -> dict[str, int]:
        """See `vitals`; and the tokens that wait or are computed here."""
        return vitals() | {"outstanding_tokens": self._batcher.outstanding_tokens}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's way to change settings without a restart; see `LiveSettings.change`."""
        self._live.change(user_config)

    async def check_health(self) -> None:
        """Serve's health check: raises `EngineDeadError` if this replica can't compute any more."""
        self._chunks.ping(None)

    def _apply(self, settings: Settings, before: Settings) -> None:
        batch = settings.batch
        if batch.max_tokens != before.batch.max_tokens:  # or it stays where too little memory may have put it
            self._batcher.max_batch_tokens = self._batch_tokens(batch.max_tokens)
        if batch.prefix_cache_mb != before.batch.prefix_cache_mb:
            self._keep_prefixes(batch.prefix_cache_mb)
        if batch.share_duplicates != before.batch.share_duplicates:
            self._batcher.share_duplicates = batch.share_duplicates
        self._batcher.max_batch_inputs = batch.max_inputs
        self._batcher.queue.policy = QueuePolicy(bulk_patience_s=batch.bulk_patience_seconds)
