"""A replica: receives envelopes, batches their inputs with everybody else's, answers with vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ray import serve

from serve_app.cluster.chunk import embed_chunk
from serve_app.config import Settings
from serve_app.errors import EngineDeadError
from serve_app.types import ChunkReply, Envelope


class Embedder:
    """The Serve deployment around one engine.

    Reaches Serve's RUNNING state only after the model is loaded, checked and warmed up; becomes unhealthy, and is replaced, when its
    engine thread dies.
    """

    def __init__(self, settings: Settings, num_gpus: float) -> None:
        # torch is imported here and not above: the process that builds the graph needs neither it nor a GPU.
        from serve_app.cluster.engine_host import load_batcher  # noqa: PLC0415

        self._replica: str = serve.get_replica_context().replica_id.unique_id
        self._batcher, self._model = load_batcher(settings, num_gpus)

    async def embed(self, envelope: Envelope, replica: str | None = None) -> ChunkReply:
        """See `embed_chunk`. `replica` is for the router, which has read it."""
        return await embed_chunk(self._batcher, self._replica, self._model, envelope)

    async def cancel(self, what: tuple[str, npt.NDArray[np.uint64]], replica: str | None = None) -> None:
        """Drop a gateway's inputs that haven't started."""
        gateway, ids = what
        self._batcher.cancel(gateway, ids.tolist())

    async def ping(self) -> str:
        """Answers if this replica can compute."""
        if not self._batcher.healthy:
            raise EngineDeadError("the engine thread is gone")
        return self._replica

    async def check_health(self) -> None:
        """Serve's health check."""
        await self.ping()
