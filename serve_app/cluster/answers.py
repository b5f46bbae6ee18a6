"""In front of the dispatcher: an input that was answered before, or is on its way already, isn't sent again."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from serve_app.cluster.ports import Backlog, Source
from serve_app.cluster.tenants import number_of
from serve_app.cluster.ticket import Embedded, EmbeddedTokens
from serve_app.cluster.vector_cache import VectorCache
from serve_app.errors import CrashingInputError, DeadlineExceededError
from serve_app.types import Priority, TokenIds, Vectors

# A request waits for one that is larger than itself only up to here, about what is computed in one go in any case.
SMALL_TOKENS = 1024

KEY_BYTES = 16


_NONE = np.empty((0, 0), np.float32)


@dataclass(slots=True, eq=False)
class _Sent:
    """Inputs of one request on their way, `landing` for those who wait. `answer` is there once they have `landed`, unless they failed;
    `crashed` if its only input was found to crash replicas."""

    tokens: int
    priority: int
    landing: asyncio.Event | None = None
    landed: bool = False
    answer: Embedded | None = None
    crashed: bool = False


class Answers:
    """What `source` answers, asked once for inputs with the same token ids.

    With `share`, inputs that a request has twice, or that another request waits for, are sent once; each request keeps its own
    deadline, and what fails with the request that sent it is sent again. With memory, `resize`, vectors are kept too. Inputs are told
    apart by a keyed digest of `model`, tenant and token ids: neither their texts nor their ids are kept. `on_kept` is told how
    many inputs were looked for among what is kept, and how many were there; `on_spared` how many tokens needn't be sent.
    With `share_between_keys` all tenants are one. Both can be set at any time. `clock` gives monotonic seconds. For one event loop.
    """

    def __init__(
        self,
        source: Source,
        *,
        model: str,
        hidden_size: int,
        share: bool = True,
        share_between_keys: bool = False,
        on_kept: Callable[[int, int], None] = lambda asked, found: None,
        on_spared: Callable[[int], None] = lambda tokens: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.share = share
        self.share_between_keys = share_between_keys
        self._source = source
        self._hidden_size = hidden_size
        self._on_kept = on_kept
        self._on_spared = on_spared
        self._clock = clock
        self._cache = VectorCache(hidden_size)
        self._keeps = False
        self._sent: dict[bytes, tuple[_Sent, int]] = {}  # by key, with its row there
        self._of_model = blake2b(f"{model}\0".encode(), digest_size=KEY_BYTES, key=os.urandom(32))
        self._tenant: str | None = None  # the last one
        self._of_tenant = self._of_model

    @property
    def kept_bytes(self) -> int:
        """What the vectors take that are kept now."""
        return self._cache.nbytes

    def resize(self, capacity: int) -> None:
        """Keep vectors in no more than so many bytes from now on; 0 keeps none."""
        self._cache.resize(capacity)
        self._keeps = capacity > 0

    def backlog(self) -> Backlog:
        """See `Dispatcher.backlog`."""
        return self._source.backlog()

    async def embed(
        self,
        token_ids: Sequence[TokenIds],
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
        tenant: str = "",
    ) -> Embedded:
        """As `Dispatcher.embed`; what took no time here has taken none. Nothing is shared between tenants."""
        tenant = "" if self.share_between_keys else tenant
        number = number_of(tenant)
        if not (self.share or self._keeps):
            return await self._source.embed(token_ids, priority=priority, deadline=deadline, tenant=number)
        keys = self._keys(token_ids, tenant)
        found, vectors = self._kept(keys)
        if not found and self._sent.keys().isdisjoint(keys) and len(set(keys)) == len(keys):
            return await self._send(keys, token_ids, priority, deadline, number)  # there is nothing to share, as a rule
        asked = self._clock()
        rows: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        n = len(keys)
        answer = Embedded(
            np.empty((n, self._hidden_size), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        )
        if found:
            answer.vectors[found] = vectors
        kept = set(found)
        missing = [key for key, its in rows.items() if its[0] not in kept]
        tokens = spared = sum(map(len, token_ids))
        while missing:
            others = {key: other for key in missing if (other := self._other(key, tokens, priority)) is not None}
            own = [key for key in missing if key not in others]
            if own:
                inputs = [token_ids[rows[key][0]] for key in own]
                try:
                    embedded = await self._send(own, inputs, priority, deadline, number)
                except CrashingInputError as error:
                    raise CrashingInputError(rows[own[error.row]][0]) from error
                spared -= sum(map(len, inputs))
                for row, key in enumerate(own):
                    _fill(answer, rows[key], embedded, row)
            missing = []
            for key, (sent, row) in others.items():
                await self._landing(sent, deadline)
                if sent.answer is not None:
                    _fill(answer, rows[key], sent.answer, row, self._clock() - asked)
                elif sent.crashed:
                    raise CrashingInputError(rows[key][0])
                else:
                    missing.append(key)
        self._on_spared(spared)
        return answer

    async def embed_all(
        self,
        token_ids: Sequence[TokenIds],
        *,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
    ) -> EmbeddedTokens:
        """As `Dispatcher.embed_all`: they are large, so none are kept, nor shared."""
        return await self._source.embed_all(token_ids, priority=priority, deadline=deadline)

    def _keys(self, token_ids: Sequence[TokenIds], tenant: str) -> list[bytes]:
        if tenant != self._tenant:
            self._tenant, self._of_tenant = tenant, self._of_model.copy()
            self._of_tenant.update(f"{tenant}\0".encode())
        keys = []
        for ids in token_ids:
            digest = self._of_tenant.copy()
            digest.update(ids.astype(np.int32, copy=False).tobytes())
            keys.append(digest.digest())
        return keys

    def _kept(self, keys: Sequence[bytes]) -> tuple[list[int], Vectors]:
        """The rows whose vectors are kept, and those vectors."""
        if not self._keeps:
            return [], _NONE
        found, vectors = self._cache.find(keys)
        self._on_kept(len(keys), len(found))
        return found, vectors

    def _other(self, key: bytes, tokens: int, priority: Priority) -> tuple[_Sent, int] | None:
        """Where an input is on its way already, if waiting for that is no worse than sending it in a request of so many tokens."""
        found = self._sent.get(key)
        if found is None or found[0].priority > priority or found[0].tokens > max(tokens, SMALL_TOKENS):
            return None
        return found

    async def _send(
        self, keys: Sequence[bytes], token_ids: Sequence[TokenIds], priority: Priority, deadline: float, tenant: int
    ) -> Embedded:
        sent = _Sent(sum(map(len, token_ids)), priority)
        for row, key in enumerate(keys):
            self._sent[key] = sent, row
        try:
            answer = sent.answer = await self._source.embed(
                token_ids, priority=priority, deadline=deadline, tenant=tenant
            )
        except CrashingInputError:
            sent.crashed = len(keys) == 1
            raise
        finally:
            for key in keys:
                # A smaller or more urgent request may have sent it too, after this one.
                found = self._sent.get(key)
                if found is not None and found[0] is sent:
                    del self._sent[key]
            sent.landed = True
            if sent.landing is not None:
                sent.landing.set()
        if self._keeps:
            self._cache.keep(keys, answer.vectors)
        return answer

    async def _landing(self, sent: _Sent, deadline: float) -> None:
        if sent.landed:
            return
        if sent.landing is None:
            sent.landing = asyncio.Event()
        try:
            async with asyncio.timeout(None if deadline == math.inf else deadline - self._clock()):
                await sent.landing.wait()
        except TimeoutError:
            raise DeadlineExceededError("The deadline passed before the vectors were ready.") from None


def _fill(answer: Embedded, rows: Iterable[int], other: Embedded, row: int, waited: float = math.inf) -> None:
    """Copy a row of `other`; one that has `waited` for it can't have been computed for longer."""
    for own in rows:
        answer.vectors[own] = other.vectors[row]
        answer.inference_seconds[own] = min(other.inference_seconds[row], waited)
        answer.queue_seconds[own] = min(other.queue_seconds[row], waited - answer.inference_seconds[own])
