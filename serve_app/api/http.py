"""One HTTP exchange: what a handler gets, what it gives back."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from serve_app.api.guard import Pass
from serve_app.types import Stage

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

JSON = b"application/json"

REQUEST_ID = b"x-request-id"

TIMEOUT = b"x-request-timeout-seconds"
"""How long the caller waits for an answer."""

HIDDEN_TIMEOUT = b"x-embedserve-timeout-seconds"
"""The same under a name that no server in front of the app reads, see `cluster.edge`."""

PIECE_BYTES = 4 * 1024 * 1024
"""A server takes any piece at once, and the next one only when its client has taken most of it: of an answer sent whole nobody knows
whether it is read."""

SEND_SECONDS = 300.0
"""For all of a large answer: a client that reads a byte a minute holds that much memory, and a place among its key's requests."""

# A caller's id goes into logs and headers of other systems: visible ASCII only, and short.
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(wanted: bytes) -> bytes:
    """The id that a caller wants for its request, if it is fit for logs, else a new one."""
    return wanted if _SANE_ID.fullmatch(wanted) else b"req_" + os.urandom(16).hex().encode()


class Request:
    """A request as far as it is known before its body is read.

    `path` is percent-decoded and free of the root path; `id` is the caller's `x-request-id` if it is fit for logs;
    `started` is when it arrived, in `time.monotonic` seconds; `timeout`, `accept` and `authorization` are the raw headers, if there
    are any. `grant` is what its API key allows, None where everybody may do everything. `model` is the served id, as soon as the
    handler knows it.
    """

    __slots__ = (
        "accept",
        "authorization",
        "content_encoding",
        "content_length",
        "content_type",
        "grant",
        "id",
        "method",
        "model",
        "path",
        "receive",
        "started",
        "timeout",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.started = time.monotonic()
        self.receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.content_type = self.content_length = self.content_encoding = b""
        self.accept = b""
        self.timeout: bytes | None = None
        self.authorization: bytes | None = None
        self.grant: Pass | None = None
        self.model = ""
        wanted = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self.content_length = value
            elif name == b"content-encoding":
                self.content_encoding = value
            elif name == REQUEST_ID:
                wanted = value
            elif name in (TIMEOUT, HIDDEN_TIMEOUT):
                self.timeout = value
            elif name == b"accept":
                self.accept = value
            elif name == b"authorization":
                # Several are as one with commas (RFC 9110, 5.3), and so nobody's key.
                self.authorization = value if self.authorization is None else self.authorization + b", " + value
        self.id = request_id(wanted).decode()

    @property
    def key(self) -> str:
        """The name of its API key, "" without one."""
        return self.grant.name if self.grant is not None else ""


@dataclass(slots=True)
class Reply:
    """A whole response. `stage_seconds` becomes one `x-{stage}-ms` header per stage; `inputs` and `prompt_tokens`, of an answer with
    vectors, are for metrics only."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list)
    stage_seconds: dict[Stage, float] = field(default_factory=dict)
    code: str | None = None
    inputs: int = 0
    prompt_tokens: int = 0


def json_reply(value: object, status: int = 200) -> Reply:
    """`value` as a JSON response."""
    return Reply(status, orjson.dumps(value))


_STAGE_HEADER = {stage: f"x-{stage.value}-ms".encode() for stage in Stage}


async def send_reply(send: Send, request: Request, reply: Reply) -> None:
    """Write `reply`, with the headers that every response carries; a HEAD request gets them without the body.

    The names are OpenAI's, but for `x-{stage}-ms`: metrics and logs use the same word for the stage. Returns once all but the last
    piece is taken by the client; raises `TimeoutError` if that takes longer than `SEND_SECONDS`.
    """
    elapsed_ms = (time.monotonic() - request.started) * 1e3
    headers: Headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        (REQUEST_ID, request.id.encode()),
        (b"openai-version", b"2020-10-01"),
        (b"openai-processing-ms", b"%d" % elapsed_ms),
    ]
    for stage, seconds in reply.stage_seconds.items():
        headers.append((_STAGE_HEADER[stage], b"%.3f" % (seconds * 1e3)))
    headers += reply.headers
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = b"" if request.method == "HEAD" else reply.body
    if len(body) > PIECE_BYTES:
        async with asyncio.timeout(SEND_SECONDS):
            await _send_in_pieces(send, body)
    else:
        await send({"type": "http.response.body", "body": body})


async def _send_in_pieces(send: Send, body: bytes) -> None:
    for start in range(0, len(body), PIECE_BYTES):
        end = start + PIECE_BYTES
        # Bytes, not a view of them: without `embedserve env` Serve pickles what is sent.
        await send({"type": "http.response.body", "body": body[start:end], "more_body": end < len(body)})
