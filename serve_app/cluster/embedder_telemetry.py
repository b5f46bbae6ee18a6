"""An Embedder's metrics: what it counts with each batch, and looks up every second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping

from serve_app.cluster.loaded import Loaded
from serve_app.cluster.served import served_id
from serve_app.cluster.tasks import TaskGroup
from serve_app.config import Settings
from serve_app.engine.batch import Batch
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.errors import NonFiniteError
from serve_app.telemetry.embedder_metrics import EmbedderMetrics
from serve_app.telemetry.peaks import peak_flops

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0

# What "recently" means for ratios: longer than most batches.
WINDOW_SECONDS = 15


def held_devices(settings: Settings, num_gpus: float) -> tuple[str, float]:
    """What an Embedder holds to compute on: the kind of device, and how many."""
    return ("gpu", num_gpus) if num_gpus else ("cpu", settings.num_cpus)


class EmbedderTelemetry:
    """Counts for one engine that was loaded in `load_seconds`, warm-up included. To be made and used on the replica's event loop."""

    def __init__(self, settings: Settings, num_gpus: float, loaded: Loaded, replica: str, load_seconds: float) -> None:
        checkpoint = Checkpoint.read(resolve(settings.model, settings.revision, weights=False))
        # A replica that shares its GPU has that share of what the GPU can do.
        known = peak_flops(loaded.device, loaded.dtype)
        peak = settings.metrics.peak_flops or (known and known * min(1.0, num_gpus))
        model = served_id(settings, checkpoint.path)
        self._metrics = EmbedderMetrics(model, replica, checkpoint.config.embedding_flops, peak)
        self._metrics.started(load_seconds - loaded.warmup_seconds, loaded.warmup_seconds)
        self._loaded = loaded
        # Moments, with the busy seconds and FLOPs until then.
        self._seen = deque([(time.monotonic(), 0.0, 0.0)], maxlen=WINDOW_SECONDS + 1)
        self._tasks = TaskGroup()
        loaded.batcher.on_batch = self.computed
        self._tasks.spawn(self._tick())

    def computed(self, batch: Batch, failed: Mapping[int, Exception]) -> None:
        """Count a batch."""
        nonfinite = sum([len(batch.askers(row)) for row, error in failed.items() if isinstance(error, NonFiniteError)])
        lengths = [item.tokens for item in batch.inputs]
        repeated = batch.tokens - sum(lengths)
        self._metrics.batch(lengths, batch.reused, repeated, self._loaded.batcher.max_batch_tokens, nonfinite)

    def look(self) -> None:
        """Take down what is the case rather than happens."""
        batcher, metrics, seen = self._loaded.batcher, self._metrics, self._seen
        now, busy = time.monotonic(), max(batcher.busy_seconds, seen[-1][1])
        metrics.busy(busy - seen[-1][1])
        seen.append((now, busy, metrics.total_flops))
        passed = now - seen[0][0]
        metrics.recently((busy - seen[0][1]) / passed, (metrics.total_flops - seen[0][2]) / passed)
        metrics.queue.set(len(batcher.queue), batcher.queue.tokens, batcher.queue.oldest_age(now))
        metrics.memory(self._loaded.memory())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self.look()
            except Exception:
                logger.exception("The Embedder's gauges could not be set")
