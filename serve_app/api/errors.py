"""Failures in OpenAI's words: `{"error": {"message", "type", "param", "code"}}`, all four keys, always.

Dialects with other words have a renderer of their own, see `Route.errors`; they share `retry_headers`.
"""

from __future__ import annotations

import logging
import math
import traceback

import orjson
from msgspec import Struct

from serve_app.api.http import Headers, Reply, Request
from serve_app.errors import EmbedserveError, InputOverMemoryError, InternalError, RequestError

log = logging.getLogger(__name__)

# OpenAI's clients obey x-should-retry before anything else. These are the states that pass by themselves.
PASSING = frozenset({408, 429, 503})

# They wait as long as they are told to, but no longer than this: then they would come back at once.
_LONGEST_WAIT_SECONDS = 60.0

# What else a caller can do, in this dialect's own fields.
_ADVICE: dict[type[RequestError], str] = {InputOverMemoryError: " 'truncate_prompt_tokens' cuts it too."}


class Error(Struct):
    """The OpenAI error object (openai-openapi `Error`)."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Struct):
    """Body of every response that isn't a success."""

    error: Error


def error_fields(error: RequestError) -> dict[str, str | None]:
    """The four keys of the OpenAI error object (openai-openapi `Error`); `code` is a string or null."""
    message = error.message + _ADVICE.get(type(error), "")
    return {"message": message, "type": error.type, "param": error.param, "code": error.code}


def error_reply(error: RequestError, request: Request) -> Reply:
    """The response for `error`. 408, 429 and 503 ask for a retry, after a second where no better time is known.

    A 500 asks for none: the dispatcher has already tried elsewhere whatever a retry could cure, so what is
    left is a defect that would fail again, at up to three times the cost.
    """
    body = orjson.dumps({"error": error_fields(error)})
    return Reply(error.status, body, headers=retry_headers(error), code=error.code)


def retry_headers(error: RequestError) -> Headers:
    """What tells a client whether and when to send the same request again.

    `retry-after` is whole seconds (RFC 9110, 10.2.3), `retry-after-ms` the same more exactly (OpenAI's clients
    prefer it). A wait that those clients wouldn't sit out asks for no retry at all.
    """
    if error.status in PASSING:
        wait = 1.0 if error.retry_after is None else error.retry_after
        headers = [(b"retry-after", b"%d" % max(1, math.ceil(wait)))]
        if error.retry_after is not None:
            headers.append((b"retry-after-ms", b"%d" % math.ceil(wait * 1e3)))
        return [*headers, (b"x-should-retry", b"true" if wait <= _LONGEST_WAIT_SECONDS else b"false")]
    if error.status >= 500:
        return [(b"x-should-retry", b"false")]
    return []


def unexpected(error: Exception, request_id: str) -> InternalError:
    """Log a defect under its request id; the client gets the constant `InternalError`.

    The log names types and places of the whole chain. Messages are kept for our own errors only: those of
    others (a tokenizer's, a codec's) may quote the input.
    """
    lines: list[str] = []
    link: BaseException | None = error
    while link is not None and len(lines) < 8:
        said = f": {link}" if isinstance(link, EmbedserveError) else ""
        lines.append(f"{type(link).__name__}{said}\n" + "".join(traceback.format_tb(link.__traceback__)))
        link = link.__cause__ or link.__context__
    log.error("request %s failed: %s", request_id, "caused by ".join(lines))
    return InternalError()
