"""One request's walk through the gateway: admit, tokenize, charge, dispatch, cut to the asked dimensions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app import __version__
from serve_app.cluster.admission import Admission
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.ports import TenantSource
from serve_app.cluster.token_texts import decoded, tokenized
from serve_app.cluster.token_vectors import check_token_vectors, token_vectors
from serve_app.cluster.tokenize import JobTokenizer, estimated_tokens
from serve_app.errors import DeadlineExceededError, UnavailableError
from serve_app.types import (
    EmbedJob,
    EmbedResult,
    Limits,
    Output,
    ServedModel,
    Stage,
    TokenIds,
    Tokenized,
    TokenVectors,
    Vectors,
)

# Below this many numbers a thread hop costs more than it spares the event loop.
INLINE_VALUES = 256 * 1024

# From here on other requests may come in between while one is tokenized.
LARGE_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds from a request's arrival to its deadline: `default`, or what it asks for from `shortest` to `longest`."""

    default: float
    shortest: float
    longest: float

    def seconds(self, asked: float | None) -> float:
        """What a request gets that asks for so much."""
        return self.default if asked is None else min(max(asked, self.shortest), self.longest)


class EmbeddingService:
    """What the dialects talk to. `limits` and `timeouts` can be set at any time."""

    version = __version__

    def __init__(
        self,
        model: ServedModel,
        limits: Limits,
        tokenizer: JobTokenizer,
        source: TenantSource,
        health: ReplicaHealth,
        admission: Admission,
        timeouts: Timeouts,
    ) -> None:
        self.models: Sequence[ServedModel] = (model,)
        self.limits = limits
        self._tokenizer = tokenizer
        self._source = source
        self._health = health
        self._admission = admission
        self.timeouts = timeouts
        self._tokenizing = 0
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

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        """The vectors of all tokens, for a job whose `output` is `Output.TOKENS`. Raises as `embed` does, and `TooManyTokensError`."""
        result = await self.embed(job, request_id)
        assert isinstance(result, TokenVectors)
        return result

    async def tokenize(self, texts: list[str], prompt: str | None, add_special_tokens: bool) -> list[Tokenized]:
        """The tokens of each text, `prompt` before it. Raises `TooManyTokensError`."""
        return await tokenized(self._tokenizer.model_tokenizer, texts, prompt, add_special_tokens, self.limits)

    async def decode(self, token_ids: Sequence[TokenIds], skip_special_tokens: bool) -> list[str]:
        """The text of each of these, int32 `[length]`. Raises `InvalidRequestError` for ids that the tokenizer doesn't have."""
        return await decoded(self._tokenizer.model_tokenizer, token_ids, skip_special_tokens)

    @property
    def active(self) -> int:
        """Requests accepted and not answered yet."""
        return self._active

    async def drain(self) -> None:
        """Refuse new requests from now on; return once the accepted ones have their vectors."""
        self._draining = True
        self._idle.clear()
        if self._active:
            await self._idle.wait()

    async def _embed(self, job: EmbedJob) -> EmbedResult:
        grant = job.grant
        if grant is not None:
            grant.permit(job)
        started = time.monotonic()
        arrived = started if job.arrived_at is None else job.arrived_at
        deadline = arrived + self.timeouts.seconds(job.timeout_seconds)
        self._admission.check(self._source.backlog(), self._tokenizing)
        inputs = await self._tokenize(job, deadline)
        if job.output is Output.TOKENS:
            check_token_vectors(inputs, self.limits, self.models[0])
        if grant is not None:
            await grant.charge(sum(map(len, inputs)))
        tokenized = time.monotonic()
        if job.output is Output.TOKENS:
            found, _, inference = await self._source.embed_all(inputs, priority=job.priority, deadline=deadline)
            return await token_vectors(found, _stages(started, tokenized, float(inference.max())))
        vectors, _, inference = await self._source.embed(
            inputs, priority=job.priority, deadline=deadline, tenant=job.tenant
        )
        stages = _stages(started, tokenized, float(inference.max()))
        if job.dimensions is not None and vectors.size > INLINE_VALUES:
            vectors = await asyncio.to_thread(matryoshka, vectors, job.dimensions)
        else:
            vectors = matryoshka(vectors, job.dimensions)
        return EmbedResult(vectors, sum(map(len, inputs)), stages)

    async def _tokenize(self, job: EmbedJob, deadline: float) -> list[TokenIds]:
        estimate = estimated_tokens(job, self.limits)
        if estimate < LARGE_TOKENS:
            return await self._tokenizer.tokenize(job)
        self._tokenizing += estimate
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                inputs = await self._tokenizer.tokenize(job)
        except TimeoutError:
            raise DeadlineExceededError("The deadline passed before the request was tokenized.") from None
        finally:
            self._tokenizing -= estimate
        # Others were queued meanwhile, and this is the last moment at which refusing it costs no device time.
        self._admission.check(self._source.backlog())
        return inputs

    async def health(self) -> str | None:
        """None if at least one replica really answers, else the reason."""
        return await self._health.reason()

    async def ready(self) -> str | None:
        """None if this gateway should get traffic, else the reason."""
        if self._draining:
            return "shutting down"
        return await self._health.reason()


def _stages(started: float, tokenized: float, inferring: float) -> dict[Stage, float]:
    """Seconds of each stage of a request that has been computed just now."""
    return {
        Stage.TOKENIZE: tokenized - started,
        # All that was neither tokenizing nor computing: waiting here, on the wire and at the replica.
        Stage.QUEUE: max(0.0, time.monotonic() - tokenized - inferring),
        Stage.INFERENCE: inferring,
    }


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
