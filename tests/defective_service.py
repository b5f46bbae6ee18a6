"""The demo service with one thing wrong that a client wouldn't notice: what `embedserve verify` is for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from serve_app.cluster.service import matryoshka
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.types import (
    DEMO_MODEL_ID,
    EmbedJob,
    EmbedResult,
    Limits,
    ServedModel,
    TokenIds,
    Tokenized,
    Truncate,
    Vectors,
)
from tests.demo_service import HIDDEN, STAGES, VOCABULARY, DemoService
from tests.reference import engine, tokenizer

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


class DefectiveService(DemoService):
    """`defect` is one of those that `embed` and `tokenize` know, or none of them."""

    def __init__(self, defect: str = "", dtype: str = "float32", revision: str | None = None) -> None:
        served = ServedModel(DEMO_MODEL_ID, HIDDEN, 512, revision, dtype=dtype, prompts={"query": PROMPT})
        super().__init__(Limits(max_input_tokens=512, max_inputs=32, max_request_tokens=4096), served)
        self.defect = defect

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        self.jobs.append(job)
        job = replace(job)
        if self.defect == "space after the prompt" and job.prompt:
            job.prompt += " "
        if self.defect == "prompt ignored":
            job.prompt = None
        if self.defect == "prompt before documents" and not job.prompt and job.texts is not None:
            job.prompt = PROMPT
        inputs = await JobTokenizer(tokenizer(), self.limits, VOCABULARY).tokenize(job)
        if self.defect in ("no end token", "no end token in vectors"):
            inputs = [ids[:-1] for ids in inputs]
        if self.defect == "cut texts lose the end token" and job.truncate is not Truncate.NONE:
            inputs = [ids[:-1] for ids in inputs]
        return EmbedResult(
            await asyncio.to_thread(self._vectors, inputs, job.dimensions), sum(map(len, inputs)), STAGES
        )

    async def tokenize(self, texts: list[str], prompt: str | None, add_special_tokens: bool) -> list[Tokenized]:
        found = await super().tokenize(texts, prompt, add_special_tokens)
        if self.defect == "no end token":
            found = [Tokenized(each.text, each.ids[:-1], each.offsets[:-1], {}) for each in found]
        return found

    def _vectors(self, inputs: list[TokenIds], dimensions: int | None) -> Vectors:
        states = [engine().launch_tokens([ids])()[0] for ids in inputs]
        if self.defect == "mean pooling":
            pooled = np.stack([each.mean(axis=0) for each in states])
        else:
            place = -2 if self.defect == "off-by-one last token" else -1
            pooled = np.stack([each[max(place, -len(each))] for each in states])
        if self.defect == "batch leakage":
            pooled += 0.5 * pooled.mean(axis=0)
        if self.defect == "first input wrong":
            pooled[0] += pooled[-1] * (len(pooled) > 1)
        if self.defect == "not normalised":
            return pooled
        vectors = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
        if self.defect == "cut but not renormalised":
            return vectors[:, :dimensions]
        if self.defect == "cut at the wrong end" and dimensions:
            return matryoshka(np.ascontiguousarray(vectors[:, ::-1]), dimensions)
        return matryoshka(vectors, dimensions)
