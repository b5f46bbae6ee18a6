"""Finds the prefixes that recent inputs share, from their token ids alone.

The rule: a prefix is worth keeping once four different ones of the last 256 inputs begin with it, if that
spares each of them at least eight tokens more than what is kept already does. Of several, the one that
spares most tokens in all comes first. An instruction's template is found so, with no need to know it: behind
it the inputs part.

An input that led to a prefix is forgotten. So every prefix computed has been seen four times anew, and even
where memory holds too few of them they cost no more than a quarter of what computing them in every input
would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from serve_app.types import TokenIds

SIGHTINGS = 4
WORTH_TOKENS = 8
LONGEST = 512
_WINDOW = 256

MOST_TENANTS = 64
"""Each takes up to half a megabyte of the host's memory."""


def head_of(ids: TokenIds, tokens: int) -> bytes:
    """The first `tokens` ids, four bytes each. Big-endian: as bytes they sort as the ids do."""
    return ids[:tokens].astype(">i4").tobytes()


class PrefixFinders:
    """A finder for each tenant, of those seen last: what one sends tells nothing about what another sends."""

    def __init__(self) -> None:
        self._of: OrderedDict[int, PrefixFinder] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of)

    def of(self, tenant: int) -> PrefixFinder:
        """The tenant's own."""
        finder = self._of.setdefault(tenant, PrefixFinder())
        self._of.move_to_end(tenant)
        if len(self._of) > MOST_TENANTS:
            self._of.popitem(last=False)
        return finder


class PrefixFinder:
    """The heads of recent inputs. Looks are rare while they find nothing. For one thread at a time."""

    def __init__(self) -> None:
        self._heads: OrderedDict[bytes, None] = OrderedDict()
        self._new = 0
        self._interval = 1

    def see(self, ids: TokenIds) -> None:
        """An input came. Its last token is never part of a prefix: one has to be left to compute."""
        head = head_of(ids, min(len(ids) - 1, LONGEST))
        if len(head) >= 4 * WORTH_TOKENS:
            self._new += 1
            self._heads[head] = None
            self._heads.move_to_end(head)
            if len(self._heads) > _WINDOW:
                self._heads.popitem(last=False)

    def see_all(self, inputs: Sequence[TokenIds]) -> None:
        """Inputs came together: of thousands, only the last ones would stay."""
        for ids in [ids for ids in inputs if len(ids) > WORTH_TOKENS][-_WINDOW:]:
            self.see(ids)

    def found(self, kept: Callable[[bytes], int]) -> Iterator[bytes]:
        """The next prefixes worth keeping, as `head_of` gives them.

        `kept` tells how many tokens of a head are kept already; it is asked anew after each.
        """
        if self._new < self._interval:
            return
        self._new = 0
        self._interval = min(2 * self._interval, _WINDOW)
        while (best := self._best(kept)) is not None:
            self._interval = 1
            for head in [head for head in self._heads if head.startswith(best)]:
                del self._heads[head]
            yield best

    def _best(self, kept: Callable[[bytes], int]) -> bytes | None:
        best, most = None, 0
        heads = sorted(self._heads)
        for tokens, first, last in _shared(heads):
            count = last - first + 1
            if count >= SIGHTINGS and tokens * count > most:
                prefix = heads[first][: 4 * tokens]
                spared = tokens - kept(prefix)
                if spared >= WORTH_TOKENS and spared * count > most:
                    best, most = prefix, spared * count
        return best


def _shared(heads: list[bytes]) -> Iterator[tuple[int, int, int]]:
    """Every prefix at which some of the sorted `heads` part: its tokens, the first and the last of them."""
    lengths = [_common(*pair) for pair in pairwise(heads)]
    nested: list[tuple[int, int]] = []
    for i, length in enumerate([*lengths, 0]):
        first = i
        while nested and nested[-1][0] > length:
            tokens, first = nested.pop()
            yield tokens, first, i
        if length and (not nested or nested[-1][0] < length):
            nested.append((length, first))


def _common(one: bytes, other: bytes) -> int:
    """How many tokens two heads begin with in common."""
    shorter = min(len(one), len(other)) // 4
    differ = np.frombuffer(one, ">i4", shorter) != np.frombuffer(other, ">i4", shorter)
    return int(differ.argmax()) if differ.any() else shorter
