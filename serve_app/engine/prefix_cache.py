"""Prefixes that are computed once and shared by all inputs that begin with their token ids."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from serve_app.engine.prefix_finder import PrefixFinders, head_of
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.submission import ShareKey
from serve_app.types import TokenIds

# Keys and values of shared prefixes are laid out anew for every input: for so many times the tokens computed at most.
KEYS_PER_TOKEN = 4


def cost(tokens: int, reused: int) -> int:
    """What an input takes of a batch's token budget: the tokens to compute, or its share of memory for keys where that is more."""
    return max(tokens - reused, -(-tokens // KEYS_PER_TOKEN))


class PrefixCache:
    """The prefixes most recently used, in `capacity` bytes; 0 keeps none. Threads may share it.

    `compute` gives the state of a prefix (int64 `[tokens]`), `token_bytes` for each of its tokens. Tenants, as in the envelope, have
    prefixes of their own, all in the same memory; without any there is one, 0.
    """

    def __init__(self, compute: Callable[[TokenIds], SharedPrefix], token_bytes: int, capacity: int) -> None:
        self._compute = compute
        self._token_bytes = token_bytes
        self.capacity = capacity
        self._kept: OrderedDict[ShareKey, SharedPrefix] = OrderedDict()
        self._lengths: dict[int, tuple[int, ...]] = {}  # of each tenant's prefixes, the longest first
        self._finders = PrefixFinders()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Memory that the kept prefixes take; a batch that runs may hold on to others for as long."""
        return sum(prefix.nbytes for prefix in list(self._kept.values()))

    def resize(self, capacity: int) -> None:
        """Keep no more than this many bytes from now on."""
        with self._lock:
            self.capacity = capacity
            self._evict()

    def clear(self) -> None:
        """Keep nothing, and know of no input."""
        with self._lock:
            self._kept.clear()
            self._lengths = {}
            self._finders = PrefixFinders()

    def cost(self, ids: TokenIds, tenant: int = 0) -> int:
        """See `cost`, as of now. Waits for nobody, even while a prefix is computed."""
        return cost(len(ids), self._longest(tenant, self._candidate(tenant, ids)))

    def share(
        self, token_ids: Sequence[TokenIds], tenants: Sequence[int] = ()
    ) -> tuple[list[SharedPrefix | None], list[int]]:
        """For each input the longest kept prefix that it goes on from, or None, and how many of its tokens needn't be computed.

        Prefixes worth keeping by now are computed first; what that takes is the first such input's: it counts as having
        reused nothing.
        """
        if not self.capacity:
            return [None] * len(token_ids), [0] * len(token_ids)
        inputs = list(zip(tenants or [0] * len(token_ids), token_ids, strict=True))
        with self._lock:
            fresh = self._find(inputs)
            shared: list[SharedPrefix | None] = []
            reused = []
            for tenant, ids in inputs:
                head = self._candidate(tenant, ids)
                tokens = self._longest(tenant, head)
                prefix = None
                if tokens:
                    key = tenant, head[: 4 * tokens]
                    prefix = self._kept[key]
                    self._kept.move_to_end(key)
                    if key in fresh:
                        fresh.remove(key)
                        tokens = 0
                shared.append(prefix)
                reused.append(tokens)
            return shared, reused

    def _find(self, inputs: Sequence[tuple[int, TokenIds]]) -> set[ShareKey]:
        """Compute what is worth it, if an input that is here uses it; the keys of that."""
        fresh = set()
        for tenant in dict.fromkeys([tenant for tenant, _ in inputs]):
            own = [ids for whose, ids in inputs if whose == tenant]
            finder = self._finders.of(tenant)
            finder.see_all(own)
            for found in finder.found(partial(self._longest, tenant)):
                tokens = len(found) // 4
                heads = [head_of(ids, len(ids) - 1) for ids in own if len(ids) > tokens]
                used = any(head.startswith(found) and self._longest(tenant, head) < tokens for head in heads)
                if used and tokens * self._token_bytes <= self.capacity:
                    self._kept[tenant, found] = self._compute(np.frombuffer(found, ">i4").astype(np.int64))
                    self._evict()
                    fresh.add((tenant, found))
        return fresh & self._kept.keys()

    def _candidate(self, tenant: int, ids: TokenIds) -> bytes:
        """As much of an input as the tenant's longest kept prefix may be; its last token is left to compute."""
        lengths = self._lengths.get(tenant)
        # Mostly there are none, and thousands of short inputs come at once.
        return head_of(ids, min(len(ids) - 1, lengths[0])) if lengths else b""

    def _longest(self, tenant: int, head: bytes) -> int:
        """Tokens of the tenant's longest kept prefix that `head` begins with, or is."""
        lengths = self._lengths.get(tenant, ())
        return next((n for n in lengths if 4 * n <= len(head) and (tenant, head[: 4 * n]) in self._kept), 0)

    def _evict(self) -> None:
        while self._kept and self.nbytes > self.capacity:
            self._kept.popitem(last=False)
        lengths: dict[int, set[int]] = {}
        for tenant, head in self._kept:
            lengths.setdefault(tenant, set()).add(len(head) // 4)
        self._lengths = {tenant: tuple(sorted(found, reverse=True)) for tenant, found in lengths.items()}
