"""The outermost layer of every HTTP server that Serve starts: what a client may tell Serve, and what it may not.

Serve reads some request headers before the application sees them: it answers a timeout itself, with a line of plain text, lets a
client switch off the detection of its own disconnect, and fails on an `x-request-id` that isn't UTF-8. Named in
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`, `middlewares` is called in each gateway and in Serve's own proxies, and what it
returns is put around everything of Serve's. On a cluster without that variable all works but for those headers.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.http import HIDDEN_TIMEOUT, REQUEST_ID, TIMEOUT, Headers, request_id

# Serve takes `_` for `-` in some of them. There are no multiplexed models and no sessions here for a client to choose.
CONTROL = frozenset({b"x-request-disconnect-disabled", b"serve-multiplexed-model-id", b"x-session-id", HIDDEN_TIMEOUT})


def middlewares() -> list[Middleware]:
    """What Serve asks for."""
    return [Middleware(Edge)]


class Edge:
    """Plain ASGI: cleans the request's headers and is out of the way of everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope["headers"] = cleaned(scope["headers"])
        await self._app(scope, receive, send)


def cleaned(headers: Headers) -> Headers:
    """The headers as Serve and the application get them.

    They carry one `x-request-id`, fit for logs; the timeout goes by a name that only the application knows; Serve's own controls
    are gone.
    """
    kept: Headers = []
    wanted = b""
    for name, value in headers:
        if name == REQUEST_ID:
            wanted = value
        elif name == TIMEOUT:
            kept.append((HIDDEN_TIMEOUT, value))
        elif name.replace(b"_", b"-") not in CONTROL:
            kept.append((name, value))
    kept.append((REQUEST_ID, request_id(wanted)))
    return kept
