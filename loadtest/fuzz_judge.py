"""What a service may say to a bad request: a refusal in the words of the route's dialect, short, with nothing of the texts in it."""

from __future__ import annotations

from typing import Any

import orjson

from loadtest.fuzz_inputs import MARK, BadInput

ALLOWED = frozenset({200, 400, 401, 403, 404, 408, 413, 415, 422, 429})
LONGEST = 1000
"""Characters of an error."""

_COHERE = ("/v1/embed", "/v2/embed")
_KEYS = {"openai": {"message", "type", "param", "code"}, "cohere": {"message", "id"}, "tei": {"error", "error_type"}}
_INSIDE = (b"Traceback", b"site-packages", b"serve_app", b"object at 0x", b"msgspec", b"Error(", b".py")


def complaint(sent: BadInput, status: int, body: bytes) -> str | None:
    """What is wrong with this reply; None if nothing is."""
    if status not in ALLOWED:
        return f"status {status}"
    return None if status == 200 else _leak(sent, body) or _misshapen(sent.path, body)


def _leak(sent: BadInput, body: bytes) -> str | None:
    if len(body) > LONGEST:
        return f"an error of {len(body)} bytes"
    if sent.whole and MARK.encode() in body:
        return "the reply quotes the text"
    return "the reply tells of the inside" if any(word in body for word in _INSIDE) else None


def _misshapen(path: str, body: bytes) -> str | None:
    try:
        said: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "the reply is no JSON"
    dialect = "openai" if path == "/v1/embeddings" else "cohere" if path in _COHERE else "tei"
    if dialect == "openai" and isinstance(said, dict) and set(said) == {"error"}:
        said = said["error"]
    if not isinstance(said, dict) or set(said) != _KEYS[dialect]:
        return f"the error isn't of the form of {dialect}"
    message = said.get("message", said.get("error"))
    return None if isinstance(message, str) and message else "the error says nothing"
