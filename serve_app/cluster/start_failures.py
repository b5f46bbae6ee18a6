"""Why replicas don't start, as Serve knows it: for a gateway that has none."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass

from ray import serve

logger = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
PATIENCE_SECONDS = 1.0

_SELF_CHECK = "SelfCheckError: "

# Serve gives a new version up after so many failures in a row for each replica that it shall have, and never bears more than that.
RETRIES_PER_REPLICA = 3
MOST_RETRIES = 20


@dataclass(frozen=True, slots=True)
class Starting:
    """What Serve says of a deployment: its `message`, and how many replicas are `loading` and how many `serving`."""

    message: str
    loading: int = 0
    serving: int = 0


class StartFailures:
    """What Serve says of the replicas of `deployment` in `application` that fail to start.

    `ask` gives what Serve says of each deployment, and may block. Serve is asked once at a time, at most every few seconds, and
    nobody waits for it longer than `patience`: a controller that is gone must not hang a health check.
    """

    def __init__(
        self,
        application: str,
        deployment: str,
        ask: Callable[[str], Mapping[str, Starting]] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._application = application
        self._deployment = deployment
        self._ask = ask or deployments
        self._patience = patience
        self._asked_at = -math.inf
        self._asking: asyncio.Task[None] | None = None
        self._found = Starting("")

    async def reason(self) -> str | None:
        """Why replicas fail, as far as is known now; None if no failure is."""
        return reason_in((await self._known()).message)

    async def hopeless(self) -> str | None:
        """The same, but None while a replica serves, or one is loading that hasn't failed before."""
        known = await self._known()
        return None if may_come(known) else reason_in(known.message)

    async def _known(self) -> Starting:
        if time.monotonic() - self._asked_at >= FRESH_SECONDS and (self._asking is None or self._asking.done()):
            self._asked_at = time.monotonic()
            # In a context of its own, or Serve would cancel it with the request that happened to ask.
            self._asking = asyncio.create_task(self._look(), context=Context())
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=self._patience)
        return self._found

    async def _look(self) -> None:
        try:
            said = await asyncio.to_thread(self._ask, self._application)
        except Exception as error:  # Ray's client raises many; a health check has its answer without this
            logger.debug("Serve doesn't say why there is no replica", exc_info=error)
            return
        self._found = said.get(self._deployment, Starting(""))


def deployments(application: str) -> dict[str, Starting]:
    """What Serve says of each deployment of an application. Blocks."""
    return {
        name: starting(status.message, status.replica_states)
        for name, status in serve.status().applications[application].deployments.items()
    }


def starting(message: str, states: Mapping[str, int]) -> Starting:
    """From Serve's message and its number of replicas in each state."""
    left = {"STARTING", "STOPPING", "STOPPED"}
    return Starting(message, states.get("STARTING", 0), sum(n for state, n in states.items() if state not in left))


def may_come(known: Starting) -> bool:
    """Whether a replica serves, or one is loading for the first time: while fewer have failed than are loading, one may be.

    Serve starts another in place of one that failed, and says how often it will go on doing so.
    """
    loading = known.loading
    said = known.message.partition("\n")[0]  # without the traceback
    failed = 1
    if given_up := re.search(r"failed to start (\d+) times", said):
        failed = int(given_up[1])
    elif left := re.search(r"Retrying (\d+) more time", said):
        # If more than those loading are wanted, it bears more, and this is too few: some others will have to fail first.
        failed = max(1, min(MOST_RETRIES, RETRIES_PER_REPLICA * loading) - int(left[1]))
    return known.serving > 0 or loading > failed


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
