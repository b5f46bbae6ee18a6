"""`POST /v1/embeddings`: read, parse, embed, render."""

from __future__ import annotations

import asyncio
import time

from serve_app.api import openai, openai_reply
from serve_app.api.body import check_media_type, read_body
from serve_app.api.deadline import timeout_seconds
from serve_app.api.disconnect import until_disconnect
from serve_app.api.http import Reply, Request
from serve_app.api.models import Models
from serve_app.api.service import Service
from serve_app.types import Stage

# Parsing and rendering below these sizes hold the event loop for at most about a millisecond; going through a
# thread would cost a tenth of that each time.
PARSE_INLINE_BYTES = 128 * 1024
RENDER_INLINE_VALUES = 64 * 1024


class Embeddings:
    """The endpoint for one service."""

    def __init__(self, service: Service, models: Models) -> None:
        self.service = service
        self.models = models
        self.limits = service.limits

    async def __call__(self, request: Request) -> Reply:
        check_media_type(request)
        timeout = timeout_seconds(request)
        body = await read_body(request, self.limits.max_body_bytes)
        if len(body) <= PARSE_INLINE_BYTES:
            job = openai.parse(body, self.models, self.limits)
        else:
            job = await asyncio.to_thread(openai.parse, body, self.models, self.limits)
        del body
        request.model = job.model
        job.timeout_seconds, job.arrived_at = timeout, request.started

        result = await until_disconnect(self.service.embed(job, request.id), request.receive)
        if len(result.vectors) != len(job):
            raise ValueError(f"{len(job)} inputs, but {len(result.vectors)} vectors")

        started = time.perf_counter()
        if result.vectors.size <= RENDER_INLINE_VALUES:
            rendered = openai_reply.render(result, job.model, job.vector_format)
        else:
            rendered = await asyncio.to_thread(openai_reply.render, result, job.model, job.vector_format)
        stages = {**result.stage_seconds, Stage.RENDER: time.perf_counter() - started}
        return Reply(200, rendered, stage_seconds=stages, inputs=len(job), prompt_tokens=result.prompt_tokens)
