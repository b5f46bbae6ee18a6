"""The ASGI app: one exchange from scope to reply.

It is plain ASGI: with a short text in and base64 out, a framework's router, request and response objects
would cost more than parsing and rendering do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serve_app.api.body import ClientDisconnectedError
from serve_app.api.errors import unexpected
from serve_app.api.guard import CHALLENGE, Guard, quota_headers
from serve_app.api.http import SEND_SECONDS, Receive, Reply, Request, Scope, Send, send_reply
from serve_app.api.routes import api_routes
from serve_app.api.routing import OPS, Access, Route, Router
from serve_app.api.service import Service
from serve_app.errors import AuthenticationError, ForbiddenError, MethodNotAllowedError, RequestError
from serve_app.types import Stage

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""What a request is recorded with whose client left before its answer (nginx's number for it); nobody is sent it."""


@dataclass(slots=True)
class Outcome:
    """What became of one request, for metrics and logs.

    `method` and `path` are the route's, "" where there is none: they are fit for metric labels. `status` is 499
    where the client left before its answer. `dialect` is the route's; `model` the served id, "" where the request ended before
    it was known; `inputs` and `prompt_tokens` are those of an answer with vectors.
    `key` is the name of the request's API key, "" without one.
    """

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    dialect: str = OPS
    model: str = ""
    inputs: int = 0
    prompt_tokens: int = 0
    code: str | None = None
    stage_seconds: dict[Stage, float] = field(default_factory=dict)
    key: str = ""


class App:
    """The ASGI application. Holds no state of its own between requests. Without a `guard` everybody may do everything."""

    def __init__(
        self,
        routes: Sequence[Route],
        observe: Callable[[Outcome], None] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.router = Router(routes)
        self.observe = observe
        self.guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.exchange(Request(scope, receive), send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def exchange(self, request: Request, send: Send) -> None:
        """Answer one request, whatever happens; only cancellation gets out."""
        try:
            await self._answer(request, send)
        finally:
            # Not before it is sent: an answer that nobody reads takes memory, and its place among the key's requests.
            if request.grant is not None:
                request.grant.leave()

    async def _answer(self, request: Request, send: Send) -> None:
        route: Route | None = None
        reply = Reply(CLIENT_GONE, b"")
        try:
            try:
                if request.method == "OPTIONS":
                    await self._enter(request, None)
                    reply = self._options(request)
                else:
                    try:
                        route = self.router.find(request.method, request.path)
                    except RequestError:
                        await self._enter(request, None)  # who has no key isn't told which paths there are
                        raise
                    if self.guard is not None:
                        await self._enter(request, route)
                    reply = await route.handler(request)
            except ClientDisconnectedError:
                pass
            except MethodNotAllowedError as error:
                reply = self._error(error, request)
                reply.headers.append(self._allow(request))
            except RequestError as error:
                reply = self._error(error, request)
            except Exception as error:
                reply = self._error(unexpected(error, request.id), request)
        finally:
            if request.grant is not None:
                reply.headers += quota_headers(request.grant.quotas())
            # Before it is sent: whatever ends this process then, a client has no answer that isn't counted.
            if self.observe is not None:
                self.observe(outcome_of(request, route, reply))
        if reply.status != CLIENT_GONE:
            await _send(send, request, reply)

    def _error(self, error: RequestError, request: Request) -> Reply:
        reply = self.router.errors(request.path)(error, request)
        if isinstance(error, AuthenticationError):
            reply.headers.append(CHALLENGE)
        return reply

    async def _enter(self, request: Request, route: Route | None) -> None:
        """Let a request in, or raise what it's refused with. What is guarded is the route that the router found, and no other reading
        of the path; `route` is None where only the path is known."""
        if self.guard is None:
            return
        if self.router.public(request.path) if route is None else route.access is Access.PUBLIC:
            return
        request.grant = self.guard.identify(request.authorization)
        await request.grant.enter()
        if route is not None and route.access is Access.ADMIN and not request.grant.admin:
            raise ForbiddenError("This needs an API key with 'admin'.")

    def _options(self, request: Request) -> Reply:
        allow = self._allow(request)
        if not allow[1]:
            self.router.find(request.method, request.path)
        return Reply(200, b"", headers=[allow])

    def _allow(self, request: Request) -> tuple[bytes, bytes]:
        return b"allow", ", ".join(self.router.allowed(request.path)).encode()


def build_app(
    service: Service,
    extra_routes: Sequence[Route] = (),
    observe: Callable[[Outcome], None] | None = None,
    guard: Guard | None = None,
) -> App:
    """The HTTP surface of `service` as an ASGI app.

    `extra_routes` (say, `/metrics`) are served and documented beside the API's own. `observe` is called for
    every request, right before its answer is sent, on the event loop: it must be quick and must not raise. With a `guard` every
    route but the public ones needs an API key that it knows.
    """
    return App(api_routes(service, extra_routes), observe, guard)


def outcome_of(request: Request, route: Route | None, reply: Reply) -> Outcome:
    """What became of a request that is about to get this reply."""
    method, path, dialect = (route.method, route.path, route.dialect) if route is not None else ("", "", OPS)
    return Outcome(
        method,
        path,
        reply.status,
        time.monotonic() - request.started,
        request.id,
        dialect,
        request.model,
        reply.inputs,
        reply.prompt_tokens,
        reply.code,
        reply.stage_seconds,
        request.key,
    )


async def _send(send: Send, request: Request, reply: Reply) -> None:
    try:
        await send_reply(send, request, reply)
    except TimeoutError:
        # The client can tell from what is missing; the server closes the connection.
        log.warning("request %s: its answer wasn't read within %g s", request.id, SEND_SECONDS)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
