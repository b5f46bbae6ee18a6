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


def quota_headers(quotas: Sequence[Quota]) -> list[tuple[bytes, bytes]]:
    """OpenAI's `x-ratelimit-*` headers."""
    headers = []
    for kind, limit, remaining, reset in quotas:
        headers += [
            (b"x-ratelimit-limit-" + kind.encode(), b"%d" % limit),
            (b"x-ratelimit-remaining-" + kind.encode(), b"%d" % remaining),
            (b"x-ratelimit-reset-" + kind.encode(), duration(reset)),
        ]
    return headers


def duration(seconds: float) -> bytes:
    """Whole seconds as OpenAI writes them: `1s`, `6m0s`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
