"""Why replicas don't start, as Serve knows it: for a gateway that has none."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextvars import Context

from ray import serve

logger = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
PATIENCE_SECONDS = 1.0

_SELF_CHECK = "SelfCheckError: "


class StartFailures:
    """What Serve says of the replicas of `deployment` in `application` that fail to start.

    `ask` gives Serve's message for each deployment, and may block. Serve is asked once at a time, at most every few seconds, and
    nobody waits for it longer than `patience`: a controller that is gone must not hang a health check.
    """

    def __init__(
        self,
        application: str,
        deployment: str,
        ask: Callable[[str], Mapping[str, str]] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._application = application
        self._deployment = deployment
        self._ask = ask or deployment_messages
        self._patience = patience
        self._asked_at = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._found: str | None = None

    async def reason(self) -> str | None:
        """What is known now; None if no failure is."""
        if time.monotonic() - self._asked_at >= FRESH_SECONDS and (self._asking is None or self._asking.done()):
            self._asked_at = time.monotonic()
            # In a context of its own, or Serve would cancel it with the request that happened to ask.
            self._asking = asyncio.create_task(self._look(), context=Context())
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=self._patience)
        return self._found

    async def _look(self) -> None:
        try:
            messages = await asyncio.to_thread(self._ask, self._application)
        except Exception as error:  # Ray's client raises many; a health check has its answer without this
            logger.debug("Serve doesn't say why there is no replica", exc_info=error)
            return
        self._found = reason_in(messages.get(self._deployment, ""))


def deployment_messages(application: str) -> dict[str, str]:
    """Serve's message for each deployment of an application. Blocks."""
    deployments = serve.status().applications[application].deployments
    return {name: status.message for name, status in deployments.items()}


def reason_in(message: str) -> str | None:
    """The reason in a message of Serve's, which ends with a replica's traceback.

    What the self-check has found is given in its words, for it is meant to be shown; of anything else only that it's in the log:
    health is told to everybody, and an exception may have paths in it.
    """
    for line in message.splitlines():
        _, found, said = line.partition(_SELF_CHECK)
        if found:
            return said.strip()
    return "its replicas fail to start; their log says why" if "failed to start" in message else None
