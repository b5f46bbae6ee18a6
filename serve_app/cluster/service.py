"""One request's walk through the gateway: tokenize, dispatch, cut to the asked dimensions."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from serve_app import __version__
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.types import EmbedJob, EmbedResult, Limits, ServedModel, Stage, Vectors


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

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        """The job's vectors. Raises a `RequestError` for whatever the client should know, any other exception for a 500."""
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
        return EmbedResult(matryoshka(vectors, job.dimensions), sum(map(len, inputs)), stages)

    async def health(self) -> str | None:
        """None if at least one replica really answers, else the reason."""
        return await self._health.reason()

    async def ready(self) -> str | None:
        """None if this gateway should get traffic, else the reason."""
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
