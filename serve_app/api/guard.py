"""What the HTTP surface asks of whoever knows the API keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from serve_app.types import Grant, Quota

CHALLENGE = (b"www-authenticate", b"Bearer")
"""Goes with every 401 (RFC 9110, 11.6.1)."""


class Pass(Grant, Protocol):
    """A grant for the length of one request."""

    async def enter(self) -> None:
        """Count the request. Raises `RateLimitedError`."""

    def leave(self) -> None:
        """The request is over, however it ended; may be called for one that was never let in."""

    def quotas(self) -> Sequence[Quota]:
        """What is left of the limits there are."""


class Guard(Protocol):
    """Knows the keys."""

    def identify(self, authorization: bytes | None) -> Pass:
        """The pass of whoever sent this `Authorization` header. Raises `MissingKeyError` and `InvalidKeyError`."""


_NAMES = {
    kind: tuple(f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}


def quota_headers(quotas: Sequence[Quota]) -> list[tuple[bytes, bytes]]:
    """OpenAI's `x-ratelimit-*` headers."""
    headers = []
    for kind, most, left, reset in quotas:
        limit_name, remaining_name, reset_name = _NAMES[kind]
        headers += [(limit_name, b"%d" % most), (remaining_name, b"%d" % left), (reset_name, duration(reset))]
    return headers


def duration(seconds: float) -> bytes:
    """Whole seconds as OpenAI writes them: `1s`, `6m0s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
