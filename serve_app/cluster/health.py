"""Whether the model really answers, found out by asking it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import Context
from typing import Protocol

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 2.0


class Answering(Protocol):
    """What can be asked for an answer, and remembers (monotonic seconds) when it last gave one."""

    replied_at: float

    async def wake(self) -> object: ...


class ReplicaHealth:
    """The latest proof of life of the replicas.

    Any reply counts as proof; without a fresh one, a ping is sent, one for all who ask meanwhile.
    """

    def __init__(self, replicas: Answering, fresh: float = FRESH_SECONDS, patience: float = PATIENCE_SECONDS) -> None:
        self._replicas = replicas
        self._fresh = fresh
        self._patience = patience
        self._asking: asyncio.Task[str | None] | None = None

    async def reason(self) -> str | None:
        """None if a replica answers, else why the service is unhealthy."""
        if time.monotonic() - self._replicas.replied_at < self._fresh:
            return None
        if self._asking is None or self._asking.done():
            # In a context of its own, or Serve would cancel it with the request that happened to ask first.
            self._asking = asyncio.create_task(self._ask(), context=Context())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(self._patience):
                await self._replicas.wake()
        except TimeoutError:
            return f"no replica answered within {self._patience:g} s"
        except Exception as error:
            logger.debug("Ping failed", exc_info=True)
            return f"no replica answers ({type(error).__name__})"
        return None
