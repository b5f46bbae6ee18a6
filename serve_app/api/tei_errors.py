"""Text Embeddings Inference's dialect: failures as `{"error", "error_type"}`, with TEI's statuses.

TEI's documentation writes the types in small letters; what its server sends is capitalised (`ErrorType` in its `router/src/lib.rs`),
and so is this.
"""

from __future__ import annotations

from typing import Literal

import orjson
from msgspec import Struct

from serve_app.api.errors import retry_headers
from serve_app.api.http import Reply, Request
from serve_app.errors import EmptyListError, InputTooLongError, RequestError

ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiErrorReply(Struct):
    """Body of every response of these routes that isn't a success."""

    error: str
    error_type: ErrorType


BACKEND = 424
"""What TEI answers when the model failed; the constant text tells nothing more, and sending it again wouldn't help."""

# What isn't listed keeps its status: 4xx are the caller's, anything else is ours.
_STATUS = {400: 422, 500: BACKEND}
_TYPE: dict[int, ErrorType] = {408: "Overloaded", 429: "Overloaded", 503: "Unhealthy", BACKEND: "Backend"}


def tei_error_reply(error: RequestError, request: Request) -> Reply:
    """The response for `error`: 422 Validation for what can't be served, 400 Empty for empty lists, 413 for bodies over the limit,
    429 Overloaded, 503 Unhealthy, 424 Backend. Retry headers are those of every dialect."""
    if isinstance(error, EmptyListError):
        status, error_type = 400, "Empty"
    else:
        status = _STATUS.get(error.status, error.status)
        error_type = _TYPE.get(status, "Validation" if status < 500 else "Backend")
    body = orjson.dumps({"error": _message(error), "error_type": error_type})
    return Reply(status, body, headers=retry_headers(error), code=error.code)


def _message(error: RequestError) -> str:
    if isinstance(error, InputTooLongError):
        # TEI's own words: programs read the two numbers from them to cut their texts.
        place = "" if error.index is None else f" (input index {error.index})"
        return (
            f"Input validation error: `inputs` must have less than {error.limit} tokens. Given: {error.given}{place}. "
            "Send 'truncate': true to have it cut."
        )
    return error.message
