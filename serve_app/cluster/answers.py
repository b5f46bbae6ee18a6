"""In front of the dispatcher: an input that was answered before, or is on its way already, isn't sent again."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from serve_app.cluster.ports import Backlog, Source
from serve_app.cluster.ticket import Embedded
from serve_app.cluster.vector_cache import VectorCache
from serve_app.errors import CrashingInputError, DeadlineExceededError
from serve_app.types import Priority, TokenIds

# A request waits for one that is larger than itself only up to here, about what is computed in one go in any case.
SMALL_TOKENS = 1024

KEY_BYTES = 16


@dataclass(slots=True, eq=False)
class _Sent:
    """Inputs of one request on their way. `answer` is there once they have `landed`, unless they failed; `crashed` if its only input
    was found to crash replicas."""

    tokens: int
    priority: int
    landed: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Embedded | None = None
    crashed: bool = False


class Answers:
    """What `source` answers, asked once for inputs with the same token ids.

    With `share`, inputs that a request has twice, or that another request waits for, are sent once; each request keeps its own
    deadline, and what fails with the request that sent it is sent again. With memory, `resize`, vectors are kept too. Inputs are told
    apart by a keyed digest of `model`, tenant and token ids: neither their texts nor their ids are kept. `on_kept` is told how
    many inputs were looked for among what is kept, and how many were there; `on_spared` how many tokens needn't be sent.
    `share` can be set at any time. `clock` gives monotonic seconds. For one event loop.
    """

    def __init__(
        self,
        source: Source,
        *,
        model: str,
        hidden_size: int,
        share: bool = True,
        on_kept: Callable[[int, int], None] = lambda asked, found: None,
        on_spared: Callable[[int], None] = lambda tokens: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.share = share
        self._source = source
        self._hidden_size = hidden_size
        self._on_kept = on_kept
        self._on_spared = on_spared
        self._clock = clock
        self._cache = VectorCache(hidden_size)
        self._keeps = False
        self._sent: dict[bytes, tuple[_Sent, int]] = {}  # by key, with its row there
        self._digest = blake2b(f"{model}\0".encode(), digest_size=KEY_BYTES, key=os.urandom(32))

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
        if not (self.share or self._keeps):
            return await self._source.embed(token_ids, priority=priority, deadline=deadline)
        asked = self._clock()
        rows = self._rows(token_ids, tenant)
        missing = list(rows)
        n = len(token_ids)
        answer = Embedded(
            np.empty((n, self._hidden_size), np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        )
        if self._keeps:
            found, vectors = self._cache.find(missing)
            self._on_kept(len(missing), len(found))
            for place, vector in zip(found, vectors, strict=True):
                answer.vectors[rows[missing[place]]] = vector
            kept = set(found)
            missing = [key for place, key in enumerate(missing) if place not in kept]
        tokens = sum(map(len, token_ids))
        spared = tokens
        while missing:
            others = {key: other for key in missing if (other := self._other(key, tokens, priority)) is not None}
            own = [key for key in missing if key not in others]
            if own:
                inputs = [token_ids[rows[key][0]] for key in own]
                try:
                    embedded = await self._send(own, inputs, priority, deadline)
                except CrashingInputError as error:
                    raise CrashingInputError(rows[own[error.row]][0]) from error
                if len(own) == n:
                    return embedded
                spared -= sum(map(len, inputs))
                for row, key in enumerate(own):
                    self._fill(answer, rows[key], embedded, row)
            missing = []
            for key, (sent, row) in others.items():
                await self._landing(sent, deadline)
                if sent.answer is not None:
                    self._fill(answer, rows[key], sent.answer, row, self._clock() - asked)
                elif sent.crashed:
                    raise CrashingInputError(rows[key][0])
                else:
                    missing.append(key)
        self._on_spared(spared)
        return answer

    def _rows(self, token_ids: Sequence[TokenIds], tenant: str) -> dict[bytes, list[int]]:
        """The inputs' keys, each with the rows that have it."""
        of_tenant = self._digest.copy()
        of_tenant.update(f"{tenant}\0".encode())
        rows: dict[bytes, list[int]] = {}
        for row, ids in enumerate(token_ids):
            digest = of_tenant.copy()
            digest.update(np.ascontiguousarray(ids, np.int32).data)
            rows.setdefault(digest.digest(), []).append(row)
        return rows

    def _other(self, key: bytes, tokens: int, priority: Priority) -> tuple[_Sent, int] | None:
        """Where an input is on its way already, if waiting for that is no worse than sending it in a request of so many tokens."""
        found = self._sent.get(key)
        if found is None or found[0].priority > priority or found[0].tokens > max(tokens, SMALL_TOKENS):
            return None
        return found

    async def _send(
        self, keys: Sequence[bytes], token_ids: Sequence[TokenIds], priority: Priority, deadline: float
    ) -> Embedded:
        sent = _Sent(sum(map(len, token_ids)), priority)
        for row, key in enumerate(keys):
            self._sent[key] = sent, row
        try:
            answer = sent.answer = await self._source.embed(token_ids, priority=priority, deadline=deadline)
        except CrashingInputError:
            sent.crashed = len(keys) == 1
            raise
        finally:
            for key in keys:
                # A smaller or more urgent request may have sent it too, after this one.
                if self._sent.get(key, (None,))[0] is sent:
                    del self._sent[key]
            sent.landed.set()
        self._cache.keep(keys, answer.vectors)
        return answer

    async def _landing(self, sent: _Sent, deadline: float) -> None:
        if sent.landed.is_set():
            return
        try:
            async with asyncio.timeout(None if deadline == math.inf else deadline - self._clock()):
                await sent.landed.wait()
        except TimeoutError:
            raise DeadlineExceededError("The deadline passed before the vectors were ready.") from None

    @staticmethod
    def _fill(answer: Embedded, rows: Iterable[int], other: Embedded, row: int, waited: float = math.inf) -> None:
        """Copy a row of `other`; one that has `waited` for it can't have been computed for longer."""
        for own in rows:
            answer.vectors[own] = other.vectors[row]
            answer.inference_seconds[own] = min(other.inference_seconds[row], waited)
            answer.queue_seconds[own] = min(other.queue_seconds[row], waited - answer.inference_seconds[own])
