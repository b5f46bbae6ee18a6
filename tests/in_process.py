"""A service without a cluster, for tests of the HTTP surface, and clients for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from serve_app.types import (
    EmbedJob,
    EmbedResult,
    Limits,
    ServedModel,
    Stage,
    TokenIds,
    Tokenized,
    TokenVectors,
    Vectors,
)

MODEL = "Qwen/Qwen3-Embedding-0.6B"
HIDDEN = 64
STAGES = {Stage.TOKENIZE: 0.001, Stage.QUEUE: 0.002, Stage.INFERENCE: 0.003}


def vector(seed: str, dimensions: int) -> Vectors:
    values = np.random.default_rng(list(seed.encode())).standard_normal(HIDDEN)[:dimensions]
    return (values / np.linalg.norm(values)).astype(np.float32)


class InProcess:
    """A service without a cluster: the vector of an input depends on its text or ids alone."""

    version = "1.2.3"

    def __init__(self) -> None:
        self.models = [ServedModel(MODEL, HIDDEN, 512, revision="abc", created=5)]
        self.limits = Limits(max_input_tokens=512, max_inputs=8, max_body_bytes=400_000)
        self.jobs: list[tuple[EmbedJob, str]] = []
        self.before: Callable[[], Any] = lambda: None
        self.reason: str | None = None

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        self.jobs.append((job, request_id))
        outcome = self.before()
        if asyncio.iscoroutine(outcome):
            await outcome
        seeds = job.texts or [",".join(map(str, ids)) for ids in job.token_ids or []]
        dimensions = job.dimensions or HIDDEN
        return EmbedResult(np.stack([vector(seed, dimensions) for seed in seeds]), 3 * len(job), dict(STAGES))

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        """Three tokens an input."""
        result = await self.embed(job, request_id)
        vectors = np.repeat(result.vectors, 3, axis=0)
        return TokenVectors(vectors, result.prompt_tokens, result.stage_seconds, lengths=np.full(len(job), 3, np.int32))

    async def tokenize(self, texts: list[str], prompt: str | None, add_special_tokens: bool) -> list[Tokenized]:
        return [Tokenized(text, [1, 0], [(0, len(text)), (0, 0)], {1: "<end>"}) for text in texts]

    async def decode(self, token_ids: list[TokenIds], skip_special_tokens: bool) -> list[str]:
        return ["a" for _ in token_ids]

    async def health(self) -> str | None:
        return self.reason

    async def ready(self) -> str | None:
        return self.reason


def fail(exception: BaseException) -> Callable[[], None]:
    """For `InProcess.before`."""

    def raises() -> None:
        raise exception

    return raises


class Bridge(httpx.BaseTransport):
    """Lets clients that know no asyncio talk to an ASGI app in this process, from any thread."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def answer() -> httpx.Response:
            reply = await self._transport.handle_async_request(request)
            return httpx.Response(reply.status_code, headers=reply.headers, content=await reply.aread())

        return asyncio.run(answer())
