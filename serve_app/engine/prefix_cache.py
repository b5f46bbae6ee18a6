"""Prefixes that are computed once and shared by all inputs that begin with their token ids."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from serve_app.engine.prefix_finder import PrefixFinder, head_of
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.types import TokenIds

# Keys and values of shared prefixes are laid out anew for every input: for so many times the tokens computed at most.
KEYS_PER_TOKEN = 4


def cost(tokens: int, reused: int) -> int:
    """What an input takes of a batch's token budget: the tokens to compute, or its share of memory for keys where that is more."""
    return max(tokens - reused, -(-tokens // KEYS_PER_TOKEN))


class PrefixCache:
    """The prefixes most recently used, in `capacity` bytes; 0 keeps none. Threads may share it.

    `compute` gives the state of a prefix (int64 `[tokens]`), `token_bytes` for each of its tokens.
    """

    def __init__(self, compute: Callable[[TokenIds], SharedPrefix], token_bytes: int, capacity: int) -> None:
        self._compute = compute
        self._token_bytes = token_bytes
        self.capacity = capacity
        self._kept: OrderedDict[bytes, SharedPrefix] = OrderedDict()
        self._lengths: tuple[int, ...] = ()
        self._finder = PrefixFinder()
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

    def cost(self, ids: TokenIds) -> int:
        """See `cost`, as of now. Waits for nobody, even while a prefix is computed."""
        return cost(len(ids), self._longest(self._candidate(ids)))

    def share(self, token_ids: Sequence[TokenIds]) -> tuple[list[SharedPrefix | None], list[int]]:
        """For each input the longest kept prefix that it goes on from, or None, and how many of its tokens needn't be computed.

        Prefixes worth keeping by now are computed first; what that takes is the first such input's: it counts as having
        reused nothing.
        """
        if not self.capacity:
            return [None] * len(token_ids), [0] * len(token_ids)
        with self._lock:
            fresh = self._find(token_ids)
            shared: list[SharedPrefix | None] = []
            reused = []
            for ids in token_ids:
                head = self._candidate(ids)
                tokens = self._longest(head)
                prefix = None
                if tokens:
                    key = head[: 4 * tokens]
                    prefix = self._kept[key]
                    self._kept.move_to_end(key)
                    if key in fresh:
                        fresh.remove(key)
                        tokens = 0
                shared.append(prefix)
                reused.append(tokens)
            return shared, reused

    def _find(self, token_ids: Sequence[TokenIds]) -> set[bytes]:
        """Compute what is worth it, if an input that is here uses it; the keys of that."""
        for ids in token_ids:
            self._finder.see(ids)
        fresh = set()
        for key in self._finder.found(self._longest):
            tokens = len(key) // 4
            heads = [head_of(ids, len(ids) - 1) for ids in token_ids if len(ids) > tokens]
            used = any(head.startswith(key) and self._longest(head) < tokens for head in heads)
            if used and tokens * self._token_bytes <= self.capacity:
                self._kept[key] = self._compute(np.frombuffer(key, ">i4").astype(np.int64))
                self._evict()
                fresh.add(key)
        return fresh & self._kept.keys()

    def _candidate(self, ids: TokenIds) -> bytes:
        """As much of an input as the longest kept prefix may be; its last token is left to compute."""
        return head_of(ids, min(len(ids) - 1, max(self._lengths, default=0)))

    def _longest(self, head: bytes) -> int:
        """Tokens of the longest kept prefix that `head` begins with, or is."""
        return next((n for n in self._lengths if 4 * n <= len(head) and head[: 4 * n] in self._kept), 0)

    def _evict(self) -> None:
        while self._kept and self.nbytes > self.capacity:
            self._kept.popitem(last=False)
        self._lengths = tuple(sorted({len(key) // 4 for key in self._kept}, reverse=True))
