"""An endpoint that gives vectors, in any dialect: read, parse, embed, render."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from serve_app.api.body import check_media_type, read_body
from serve_app.api.deadline import timeout_seconds
from serve_app.api.disconnect import until_disconnect
from serve_app.api.http import JSON, Headers, Reply, Request
from serve_app.api.models import Models
from serve_app.api.service import Service
from serve_app.types import EmbedJob, EmbedResult, Limits, Stage

# Parsing and rendering below these sizes hold the event loop for at most about a millisecond; going through a
# thread would cost a tenth of that each time.
PARSE_INLINE_BYTES = 128 * 1024
RENDER_INLINE_VALUES = 64 * 1024

TRUNCATED = b"x-truncated-inputs"
"""How many inputs lost tokens because the request allowed it; absent if none did."""

T = TypeVar("T")
Job = TypeVar("Job", bound=EmbedJob)


class Embeddings(Generic[Job]):
    """The endpoint of one dialect for one service.

    `parse` makes a job of a body, or raises a `RequestError`; `render` makes the body of the reply, from the result, the job and the
    request's id. Both may run in a thread. `headers` are the dialect's own; `compute` takes the place of the service's `embed`;
    `content_type` is that of the body.
    """

    def __init__(
        self,
        service: Service,
        models: Models,
        parse: Callable[[bytes, Models, Limits], Job],
        render: Callable[[EmbedResult, Job, str], bytes],
        headers: Callable[[EmbedResult, Job, Request], Headers] | None = None,
        compute: Callable[[Job, str], Awaitable[EmbedResult]] | None = None,
        content_type: Callable[[Job], bytes] = lambda job: JSON,
    ) -> None:
        self.service = service
        self.models = models
        self.limits = service.limits
        self._parse = parse
        self._render = render
        self._headers = headers
        self._compute = compute
        self._content_type = content_type

    async def __call__(self, request: Request) -> Reply:
        timeout = timeout_seconds(request)
        job = await parsed(request, self._parse, self.models, self.limits)
        request.model = job.model
        job.timeout_seconds, job.arrived_at, job.grant = timeout, request.started, request.grant

        result = await until_disconnect((self._compute or self.service.embed)(job, request.id), request.receive)
        if result.inputs != len(job):
            raise ValueError(f"{len(job)} inputs, but {result.inputs} vectors")

        started = time.perf_counter()
        if result.vectors.size <= RENDER_INLINE_VALUES:
            rendered = self._render(result, job, request.id)
        else:
            rendered = await asyncio.to_thread(self._render, result, job, request.id)
        stages = {**result.stage_seconds, Stage.RENDER: time.perf_counter() - started}
        reply = Reply(
            200,
            rendered,
            self._content_type(job),
            stage_seconds=stages,
            inputs=len(job),
            prompt_tokens=result.prompt_tokens,
        )
        if job.truncated:
            reply.headers.append((TRUNCATED, b"%d" % job.truncated))
        if self._headers is not None:
            reply.headers += self._headers(result, job, request)
        return reply


async def parsed(request: Request, parse: Callable[[bytes, Models, Limits], T], models: Models, limits: Limits) -> T:
    """What `parse` makes of the request's body, in a thread where that is large. Raises what `parse` and `read_body` do."""
    check_media_type(request)
    body = await read_body(request, limits.max_body_bytes)
    if len(body) <= PARSE_INLINE_BYTES:
        return parse(body, models, limits)
    return await asyncio.to_thread(parse, body, models, limits)
