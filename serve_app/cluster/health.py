"""Whether the model really answers, found out by asking it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Protocol

from serve_app.types import Ping, ReplicaStatus

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 2.0

# So many replicas are asked at once, and as many others whenever a quarter of the patience has passed: some may hang.
ASKED_AT_ONCE = 3
ROUNDS = 4


class Answering(Protocol):
    """Asks one replica for its status; remembers (monotonic seconds) when any of them last answered anything."""

    replied_at: float

    async def ping(self, replica: str, ping: Ping, /) -> ReplicaStatus: ...


class Listed(Protocol):
    """The replicas that exist, and those of them that are in the rotation."""

    @property
    def listed(self) -> Sequence[str]: ...

    @property
    def available(self) -> Sequence[str]: ...


class ReplicaHealth:
    """The latest proof of life of the replicas.

    Any reply counts as proof; without a fresh one some replicas are pinged, once for all who ask meanwhile, and the first answer
    wins. Where the pool `may_sleep`, having no replica is well, and nobody is woken by the question. `ping` makes what is asked.
    `why_none` knows more of why there is no replica.
    """

    def __init__(
        self,
        transport: Answering,
        replicas: Listed,
        ping: Callable[[], Ping],
        *,
        may_sleep: bool = False,
        fresh: float = FRESH_SECONDS,
        patience: float = PATIENCE_SECONDS,
        why_none: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._transport = transport
        self._replicas = replicas
        self._ping = ping
        self._may_sleep = may_sleep
        self._fresh = fresh
        self._patience = patience
        self._why_none = why_none
        self._asking: asyncio.Task[str | None] | None = None

    async def reason(self) -> str | None:
        """None if a replica answers, else why the service is unhealthy."""
        if time.monotonic() - self._transport.replied_at < self._fresh:
            return None
        if not self._replicas.listed:
            return None if self._may_sleep else await self._none()
        if self._asking is None or self._asking.done():
            # In a context of its own, or Serve would cancel it with the request that happened to ask first.
            self._asking = asyncio.create_task(self._ask(), context=Context())
        return await asyncio.shield(self._asking)

    async def _none(self) -> str:
        why = await self._why_none() if self._why_none is not None else None
        return f"there is no replica: {why}" if why else "there is no replica"

    async def _ask(self) -> str | None:
        # One that is out of the rotation may be back, but only where there is no other.
        names = list(self._replicas.available or self._replicas.listed)
        random.shuffle(names)
        asked: set[asyncio.Task[ReplicaStatus]] = set()
        failed: BaseException | None = None
        try:
            for _ in range(ROUNDS):
                asked |= {asyncio.create_task(self._transport.ping(n, self._ping())) for n in names[:ASKED_AT_ONCE]}
                del names[:ASKED_AT_ONCE]
                until = time.monotonic() + self._patience / ROUNDS
                while asked and (left := until - time.monotonic()) > 0:
                    done, asked = await asyncio.wait(asked, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    errors = [task.exception() for task in done]
                    if None in errors:
                        return None
                    failed = next(iter(errors), failed)
                if not asked and not names:
                    break
        finally:
            for task in asked:
                task.cancel()
        if failed is not None and not asked:
            logger.debug("Pings failed", exc_info=failed)
            return f"no replica answers ({type(failed).__name__})"
        return f"no replica answered within {self._patience:g} s"
