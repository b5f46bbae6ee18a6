"""An endpoint that gives vectors, in any dialect: read, parse, embed, render."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from serve_app.api.body import check_media_type, read_body
from serve_app.api.deadline import timeout_seconds
from serve_app.api.disconnect import until_disconnect
from serve_app.api.http import Reply, Request
from serve_app.api.models import Models
from serve_app.api.service import Service
from serve_app.types import EmbedJob, EmbedResult, Limits, Stage

# Parsing and rendering below these sizes hold the event loop for at most about a millisecond; going through a
# thread would cost a tenth of that each time.
PARSE_INLINE_BYTES = 128 * 1024
RENDER_INLINE_VALUES = 64 * 1024

TRUNCATED = b"x-truncated-inputs"
"""How many inputs lost tokens because the request allowed it; absent if none did."""

Job = TypeVar("Job", bound=EmbedJob)


class Embeddings(Generic[Job]):
    """The endpoint of one dialect for one service.

    `parse` makes a job of a body, or raises a `RequestError`; `render` makes the body of the reply, from the result, the job and the
    request's id. Both may run in a thread.
    """

    def __init__(
        self,
        service: Service,
        models: Models,
        parse: Callable[[bytes, Models, Limits], Job],
        render: Callable[[EmbedResult, Job, str], bytes],
    ) -> None:
        self.service = service
        self.models = models
        self.limits = service.limits
        self._parse = parse
        self._render = render

    async def __call__(self, request: Request) -> Reply:
        check_media_type(request)
        timeout = timeout_seconds(request)
        body = await read_body(request, self.limits.max_body_bytes)
        if len(body) <= PARSE_INLINE_BYTES:
            job = self._parse(body, self.models, self.limits)
        else:
            job = await asyncio.to_thread(self._parse, body, self.models, self.limits)
        del body
        request.model = job.model
        job.timeout_seconds, job.arrived_at = timeout, request.started

        result = await until_disconnect(self.service.embed(job, request.id), request.receive)
        if len(result.vectors) != len(job):
            raise ValueError(f"{len(job)} inputs, but {len(result.vectors)} vectors")

        started = time.perf_counter()
        if result.vectors.size <= RENDER_INLINE_VALUES:
            rendered = self._render(result, job, request.id)
        else:
            rendered = await asyncio.to_thread(self._render, result, job, request.id)
        stages = {**result.stage_seconds, Stage.RENDER: time.perf_counter() - started}
        reply = Reply(200, rendered, stage_seconds=stages, inputs=len(job), prompt_tokens=result.prompt_tokens)
        if job.truncated:
            reply.headers.append((TRUNCATED, b"%d" % job.truncated))
        return reply
