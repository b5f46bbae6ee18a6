"""Whether waiting is worth it: while no replica serves and none will, requests are told so at once instead of at their deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from serve_app.cluster.health import Listed
from serve_app.cluster.ports import Backlog, Source
from serve_app.cluster.ticket import Embedded, EmbeddedTokens
from serve_app.errors import UnavailableError
from serve_app.types import Priority, TokenIds

LOOK_SECONDS = 1.0


class Waiting(Source, Protocol):
    """A source whose requests may wait for a replica."""

    @property
    def queued_tokens(self) -> int: ...

    def give_up(self, error: Exception) -> None:
        """See `Dispatcher.give_up`."""


class Outlook:
    """In front of `source`: raises `UnavailableError` for a request that nobody will compute.

    `hopeless` says why no replica will come, None while one may. It is asked only while `replicas` has none, not even a leaving one.
    """

    def __init__(self, source: Waiting, replicas: Listed, hopeless: Callable[[], Awaitable[str | None]]) -> None:
        self._source = source
        self._replicas = replicas
        self._hopeless = hopeless

    def backlog(self) -> Backlog:
        """See `Dispatcher.backlog`."""
        return self._source.backlog()

    async def embed(
        self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float, tenant: int = 0
    ) -> Embedded:
        """As `Dispatcher.embed`."""
        await self._check()
        return await self._source.embed(token_ids, priority=priority, deadline=deadline, tenant=tenant)

    async def embed_all(self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float) -> EmbeddedTokens:
        """As `Dispatcher.embed_all`."""
        await self._check()
        return await self._source.embed_all(token_ids, priority=priority, deadline=deadline)

    async def keep(self) -> None:
        """For as long as it runs, give up what came while there was hope."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._source.queued_tokens:
                try:
                    await self._check()
                except UnavailableError as error:
                    self._source.give_up(error)

    async def _check(self) -> None:
        if self._nobody and (why := await self._hopeless()) and self._nobody:
            raise UnavailableError(
                f"No replica can serve the model: {why}. Whoever runs this service has to put that right; /ready says when it is."
            )

    @property
    def _nobody(self) -> bool:
        return not (self._replicas.available or self._replicas.listed)
