"""One request's walk through the gateway: tokenize, dispatch, cut to the asked dimensions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from serve_app import __version__
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.errors import UnavailableError
from serve_app.types import EmbedJob, EmbedResult, Limits, ServedModel, Stage, Vectors

# Below this many numbers a thread hop costs more than it spares the event loop.
INLINE_VALUES = 256 * 1024


class EmbeddingService:
    """What the dialects talk to."""

    version = __version__

    def __init__(
        self,
        model: ServedModel,
        limits: Limits,
        tokenizer: JobTokenizer,
        dispatcher: Dispatcher,
        health: ReplicaHealth,
        timeout_seconds: float,
    ) -> None:
        self.models: Sequence[ServedModel] = (model,)
        self.limits = limits
        self._tokenizer = tokenizer
        self._dispatcher = dispatcher
        self._health = health
        self._timeout = timeout_seconds
        self._draining = False
        self._active = 0
        self._idle = asyncio.Event()

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        """The job's vectors. Raises a `RequestError` for whatever the client should know, any other exception for a 500."""
        if self._draining:
            raise UnavailableError("The service is shutting down.")
        self._active += 1
        try:
            return await self._embed(job)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def drain(self) -> None:
        """Refuse new requests from now on; return once the accepted ones have their vectors."""
        self._draining = True
        self._idle.clear()
        if self._active:
            await self._idle.wait()

    async def _embed(self, job: EmbedJob) -> EmbedResult:
        started = time.monotonic()
        inputs = await self._tokenizer.tokenize(job)
        tokenized = time.monotonic()
        vectors, _, inference = await self._dispatcher.embed(
            inputs, priority=job.priority, deadline=started + self._timeout
        )
        computed = time.monotonic()
        inferring = float(inference.max())
        stages = {
            Stage.TOKENIZE: tokenized - started,
            # All that was neither tokenizing nor computing: waiting here, on the wire and at the replica.
            Stage.QUEUE: max(0.0, computed - tokenized - inferring),
            Stage.INFERENCE: inferring,
        }
        if job.dimensions is not None and vectors.size > INLINE_VALUES:
            vectors = await asyncio.to_thread(matryoshka, vectors, job.dimensions)
        else:
            vectors = matryoshka(vectors, job.dimensions)
        return EmbedResult(vectors, sum(map(len, inputs)), stages)

    async def health(self) -> str | None:
        """None if at least one replica really answers, else the reason."""
        return await self._health.reason()

    async def ready(self) -> str | None:
        """None if this gateway should get traffic, else the reason."""
        if self._draining:
            return "shutting down"
        return await self._health.reason()


def matryoshka(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The first `dimensions` of each vector, L2-normalised again: float32 `[n, dimensions]`.

    That order, cut first, is the one the models were trained for (the Qwen3-Embedding model card).
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    normalised: Vectors = np.divide(cut, np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
    return normalised
