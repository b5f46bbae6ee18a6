"""Whether the model really answers, found out by asking it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from serve_app.errors import EmbedserveError

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 2.0


class ReplicaHealth:
    """The latest proof of life of the replicas.

    Any reply counts as proof; without a fresh one, a ping is sent, one for all who ask meanwhile.
    """

    def __init__(
        self, ping: Callable[[], Awaitable[None]], fresh: float = FRESH_SECONDS, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._ping = ping
        self._fresh = fresh
        self._patience = patience
        self._answered_at = float("-inf")
        self._asking: asyncio.Task[str | None] | None = None

    def answered(self) -> None:
        """A replica has just replied."""
        self._answered_at = time.monotonic()

    async def reason(self) -> str | None:
        """None if a replica answers, else why the service is unhealthy."""
        if time.monotonic() - self._answered_at < self._fresh:
            return None
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(self._patience):
                await self._ping()
        except TimeoutError:
            return f"no replica answered within {self._patience:g} s"
        except EmbedserveError as error:
            return f"no replica answers ({type(error).__name__})"
        self.answered()
        return None
