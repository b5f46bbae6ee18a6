"""What one request's API key allows, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.access.key import REQUESTS, TOKENS, ApiKey, Ask
from serve_app.access.limiter import Limiter
from serve_app.access.window import Taken
from serve_app.errors import ModelNotAllowedError, RateLimitedError, TooManyTokensError
from serve_app.types import EmbedJob, Priority, Quota

CONCURRENT = "concurrent"

LONGEST_WAIT_SECONDS = 60.0
"""What nobody is told to exceed: OpenAI's clients sit out no more."""

# When one of a key's requests will be over isn't known.
CONCURRENT_WAIT_SECONDS = 1.0


@dataclass(slots=True)
class Entrance:
    """What the grants of one gateway share; `inside` is how many requests of each key it works on."""

    limiter: Limiter
    gateways: int
    on_refused: Callable[[str, str], None]
    inside: dict[str, int] = field(default_factory=dict)


class KeyGrant:
    """One request's. Its key is the one that was valid when it came, whatever becomes of that meanwhile."""

    __slots__ = ("_entrance", "_inside", "_key", "_taken", "admin", "name")

    def __init__(self, key: ApiKey, entrance: Entrance) -> None:
        self.name = key.name
        self.admin = key.admin
        self._key = key
        self._entrance = entrance
        self._inside = False
        self._taken: dict[str, Taken] = {}

    async def enter(self) -> None:
        """Count the request. Raises `RateLimitedError` where the key has too many at once or in the last minute."""
        self._come_in()
        if asks := self._key.asks:
            for ask, taken in zip(asks, await self._entrance.limiter.take(asks), strict=True):
                self._taken[ask.kind] = taken
                if ask.amount and taken.wait:
                    raise self._limited(ask, taken)

    def leave(self) -> None:
        """The request is over, however it ended; may be called for one that was never let in."""
        if self._inside:
            self._inside = False
            inside = self._entrance.inside
            inside[self.name] -= 1
            if not inside[self.name]:
                del inside[self.name]

    def allows(self, model: str) -> bool:
        """Whether it may use the model with this id."""
        return self._key.allows(model)

    def permit(self, job: EmbedJob) -> None:
        """Make a job of a bulk key bulk. Raises `ModelNotAllowedError`."""
        if not self._key.allows(job.model):
            raise ModelNotAllowedError(f"Your API key may not use the model '{job.model}'.", "model")
        if self._key.bulk:
            job.priority = Priority.BULK

    async def charge(self, tokens: int) -> None:
        """Take a job's tokens off the last minute's. What was taken isn't given back if the job then fails.

        Raises `RateLimitedError`, and `TooManyTokensError` for more than one request can ever have.
        """
        limit = self._key.tokens_per_minute
        if limit is None:
            return
        limiter = self._entrance.limiter
        if tokens > (most := limiter.ever(limit)):
            self._entrance.on_refused(self.name, TOKENS)
            raise TooManyTokensError(
                f"Requested {tokens} tokens, but your API key has {most} a minute here: none may have more. Send less at a time.",
                "input",
            )
        ask = Ask(self.name, TOKENS, limit, tokens)
        [taken] = await limiter.take([ask])
        self._taken[TOKENS] = taken
        if taken.wait:
            raise self._limited(ask, taken)

    def quotas(self) -> list[Quota]:
        """What is left of the limits there are, as far as known."""
        quotas: list[Quota] = []
        for _, kind, limit, _ in self._key.asks:
            if (taken := self._taken.get(kind)) is not None:
                most = self._entrance.limiter.most(limit)
                quotas.append((kind, most, max(0, most - taken.used), taken.reset))
        return quotas

    def _come_in(self) -> None:
        entrance = self._entrance
        now = entrance.inside.get(self.name, 0)
        if (limit := self._key.max_concurrent) is not None and now >= (share := max(1, limit // entrance.gateways)):
            entrance.on_refused(self.name, CONCURRENT)
            raise RateLimitedError(
                f"Your API key has {now} requests under way, and may have {share} here. Wait for one of them.",
                REQUESTS,
                CONCURRENT_WAIT_SECONDS,
            )
        entrance.inside[self.name] = now + 1
        self._inside = True

    def _limited(self, ask: Ask, taken: Taken) -> RateLimitedError:
        self._entrance.on_refused(self.name, ask.kind)
        wait = min(taken.wait, LONGEST_WAIT_SECONDS)
        return RateLimitedError(
            f"Rate limit reached for {ask.kind} per min: Limit {self._entrance.limiter.most(ask.limit)}, Used {taken.used}, "
            f"Requested {ask.amount}. Please try again in {wait:.3g} s.",
            ask.kind,
            wait,
        )
