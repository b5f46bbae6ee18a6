"""The HTTP surface on a real port, over the demo checkpoint in this process: for clients that bring their own HTTP, without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn

from serve_app.cluster.service import matryoshka
from serve_app.cluster.token_texts import decoded, tokenized
from serve_app.cluster.token_vectors import token_vectors
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.types import (
    DEMO_MODEL_ID,
    EmbedJob,
    EmbedResult,
    Limits,
    ServedModel,
    Stage,
    TokenIds,
    Tokenized,
    TokenVectors,
)
from tests.reference import VOCABULARY, engine, tokenizer

HIDDEN = 128
STAGES = {Stage.TOKENIZE: 0.001, Stage.QUEUE: 0.002, Stage.INFERENCE: 0.003}


class DemoService:
    """Tokenizes as a gateway does and computes with the engine itself. `trouble` is raised instead of an answer."""

    version = "1.2.3"

    def __init__(self, limits: Limits | None = None, model: ServedModel | None = None) -> None:
        self.limits = limits or Limits(max_input_tokens=512, max_inputs=32, max_request_tokens=4096)
        self.models = (model or ServedModel(DEMO_MODEL_ID, HIDDEN, self.limits.max_input_tokens),)
        self.jobs: list[EmbedJob] = []
        self.trouble: Exception | None = None

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        if self.trouble is not None:
            raise self.trouble
        self.jobs.append(job)
        inputs = await JobTokenizer(tokenizer(), self.limits, VOCABULARY).tokenize(job)
        vectors = await asyncio.to_thread(lambda: np.concatenate([engine().encode([ids]) for ids in inputs]))
        return EmbedResult(matryoshka(vectors, job.dimensions), sum(map(len, inputs)), dict(STAGES))

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        self.jobs.append(job)
        inputs = await JobTokenizer(tokenizer(), self.limits, VOCABULARY).tokenize(job)
        found = await asyncio.to_thread(engine().launch_tokens(inputs))
        return await token_vectors(found, dict(STAGES))

    async def tokenize(self, texts: list[str], prompt: str | None, add_special_tokens: bool) -> list[Tokenized]:
        if self.trouble is not None:
            raise self.trouble
        return await tokenized(tokenizer(), texts, prompt, add_special_tokens, self.limits)

    async def decode(self, token_ids: list[TokenIds], skip_special_tokens: bool) -> list[str]:
        return await decoded(tokenizer(), token_ids, skip_special_tokens)

    async def health(self) -> str | None:
        return None

    async def ready(self) -> str | None:
        return None


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The URL at which `app` answers, from a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    server.config.load()
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.001)
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
