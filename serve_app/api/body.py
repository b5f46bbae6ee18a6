"""Reading a JSON body within its limit."""

from __future__ import annotations

import asyncio

from serve_app.api.http import Message, Request
from serve_app.errors import DeadlineExceededError, PayloadTooLargeError, UnsupportedMediaTypeError

BODY_SECONDS = 300.0
"""From when a body that comes in pieces begins, until when it must be there: a client that sends a byte a minute holds a connection,
memory and a place among its key's requests."""


class ClientDisconnectedError(Exception):
    """The client went away: nobody is left to answer."""


def check_media_type(request: Request) -> None:
    """Accept `application/json` and no type at all (curl scripts and small clients leave it out).

    Raises `UnsupportedMediaTypeError` for other types and for any content encoding.
    """
    media_type = request.content_type
    if media_type and media_type.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaTypeError("The body must be JSON: send it with 'Content-Type: application/json'.")
    if request.content_encoding.lower() not in (b"", b"identity"):
        raise UnsupportedMediaTypeError("Compressed bodies aren't supported: send it without 'Content-Encoding'.")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, at most `max_bytes` long.

    Raises `PayloadTooLargeError`, before reading anything where the length is declared, `DeadlineExceededError` for one that takes
    longer than `BODY_SECONDS`, and `ClientDisconnectedError`.
    """
    declared = request.content_length
    if declared.isdigit() and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    message = await request.receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body") and message["type"] == "http.request" and len(body) <= max_bytes:
        return body
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _in_pieces(request, message, max_bytes)
    except TimeoutError:
        raise DeadlineExceededError(
            f"The body wasn't complete after {BODY_SECONDS:g} s. Send less at a time."
        ) from None


async def _in_pieces(request: Request, message: Message, max_bytes: int) -> bytes:
    chunks, size = [], 0
    while True:
        if message["type"] != "http.request":
            raise ClientDisconnectedError
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await request.receive()


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is larger than {max_bytes} bytes. Split the inputs over several requests.")


def why_unreadable(body: bytes, error: Exception) -> str:
    """Why a JSON decoder gave up on `body` with `error`, in a clause that quotes nothing of it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not valid UTF-8"
    if not body.strip():
        return "it is empty"
    if body.startswith(b"\xef\xbb\xbf"):
        return "it starts with a byte order mark"
    return "it is not valid JSON"
