"""The limits of keys counted in Redis, for all gateways together; in this gateway alone while Redis doesn't answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, TypeAlias

from redis.asyncio import Redis

from serve_app.access.key import Ask
from serve_app.access.limiter import ShareLimiter
from serve_app.access.window import Taken

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.25
"""Nobody waits longer than about twice this for Redis."""

RETRY_SECONDS = 1.0

# More would keep Redis, which does one thing at a time, from other gateways.
MOST_ASKED = 256

# As `Window`, by Redis's own clock. KEYS: a hash of second -> amount for each limit. ARGV: the limit and the amount of each.
SCRIPT = """
local time = redis.call('TIME')
local second = tonumber(time[1])
local now = second + tonumber(time[2]) / 1e6
local answers = {}
for i, key in ipairs(KEYS) do
  local limit, amount = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local pairs_ = redis.call('HGETALL', key)
  local used, newest, kept = 0, -1, {}
  for j = 1, #pairs_, 2 do
    local at, n = tonumber(pairs_[j]), tonumber(pairs_[j + 1])
    if at < second - 60 then
      redis.call('HDEL', key, pairs_[j])
    else
      used = used + n
      newest = math.max(newest, at)
      kept[#kept + 1] = {at, n}
    end
  end
  local wait = 0
  if used + amount <= limit then
    if amount > 0 then
      redis.call('HINCRBY', key, second, amount)
      redis.call('EXPIRE', key, 62)
      used = used + amount
      newest = second
    end
  else
    table.sort(kept, function(a, b) return a[1] < b[1] end)
    local missing = used + amount - limit
    wait = 60
    for _, slot in ipairs(kept) do
      missing = missing - slot[2]
      if missing <= 0 then
        wait = slot[1] + 61 - now
        break
      end
    end
  end
  local reset = 0
  if newest >= 0 then reset = newest + 61 - now end
  answers[i] = {used, math.ceil(wait * 1000), math.ceil(reset * 1000)}
end
return answers
"""

_Waiting: TypeAlias = "tuple[Sequence[Ask], asyncio.Future[list[Taken]]]"


class RedisLimiter:
    """What waits while Redis is asked is asked next, all in one call: a busy gateway makes few of them.

    `own` counts along, and alone while Redis is away: each gateway then lets its share through. `application` keeps services that
    use one Redis apart. `on_alone` is told of every decision made without Redis. Nothing here raises because of Redis.
    """

    def __init__(
        self,
        url: str,
        application: str,
        own: ShareLimiter,
        on_alone: Callable[[], None] = lambda: None,
    ) -> None:
        self._redis = Redis.from_url(url, socket_connect_timeout=PATIENCE_SECONDS, max_connections=2)
        self._script = self._redis.register_script(SCRIPT)
        self._prefix = f"{{embedserve:{application}}}:used:"
        self._own = own
        self._on_alone = on_alone
        self._waiting: list[_Waiting] = []
        self._asking: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self.away = False

    def most(self, limit: int) -> int:
        """All of it, or this gateway's share while Redis is away."""
        return self._own.most(limit) if self.away else limit

    def ever(self, limit: int) -> int:
        """All of it: Redis comes back."""
        return limit

    async def take(self, asked: Sequence[Ask]) -> list[Taken]:
        """See `Limiter.take`."""
        if self.away:
            return self._alone(asked)
        future: asyncio.Future[list[Taken]] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        # In a context of its own: it asks for many requests, and is none of theirs.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), context=Context())
        return await future

    async def close(self) -> None:
        """Let go of the connections."""
        for task in (self._asking, self._watch):
            if task is not None:
                task.cancel()
        await self._redis.aclose()

    def _alone(self, asked: Sequence[Ask]) -> list[Taken]:
        self._on_alone()
        return self._own.take_now(asked)

    async def _ask_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_ASKED], self._waiting[MOST_ASKED:]
            asks = [ask for asked, _ in batch for ask in asked]
            answers: list[Taken] = []
            if not self.away:
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        answers = await self._ask(asks)
                except Exception as error:
                    # A RedisError, OSError or TimeoutError; of uvloop, on a connection that has just gone, a RuntimeError. What
                    # isn't caught here would leave everybody who waits without an answer.
                    self._lost(error)
            at = 0
            for asked, future in batch:
                if not future.done():
                    future.set_result(answers[at : at + len(asked)] if answers else self._alone(asked))
                at += len(asked)

    async def _ask(self, asks: Sequence[Ask]) -> list[Taken]:
        keys = [f"{self._prefix}{ask.kind}:{ask.name}" for ask in asks]
        numbers = [number for ask in asks for number in (ask.limit, ask.amount)]
        said: Any = await self._script(keys=keys, args=numbers)
        for ask, (_, wait, _) in zip(asks, said, strict=True):
            if not wait:
                self._own.note(ask)
        return [Taken(int(used), wait / 1e3, reset / 1e3) for used, wait, reset in said]

    def _lost(self, error: Exception) -> None:
        self.away = True
        # The error's own message may have the URL in it, and so a password.
        logger.error(
            "Redis doesn't answer (%s): until it does, each gateway lets 1/%d of every key's limits through.",
            type(error).__name__,
            self._own.gateways,
        )
        self._watch = asyncio.create_task(self._until_back(), context=Context())

    async def _until_back(self) -> None:
        while self.away:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._redis.ping()
                self.away = False
            except Exception as error:  # as above
                logger.debug("Redis still doesn't answer: %s", type(error).__name__)
        logger.warning("Redis answers again: the limits of API keys are counted there.")
