"""Where the sequences of a batch begin and end: what attention needs to know, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.transfer import Integers, to_device


class Packing:
    """Sequences one after another in `[tokens, ...]` tensors, or the part of them that is computed at once.

    `lengths` are tokens a sequence, without those of the prefix that it goes on from: `prefixes` has one or None for
    each; `tokens` is their sum. `earlier` is how many tokens of the first sequence were computed in parts before this
    one: keys and values have that many rows more than there are queries, in front of them. `longest` is the greatest
    length, `longest_keys` that with prefixes and earlier tokens. `arrays` has to be brought to the device, for
    `place` to set the tensors: `bounds` (int32 `[n + 1]`), the cumulated lengths; `key_bounds`, the same of the keys;
    and `key_rows` (int64 `[keys]`), None without prefixes: where the keys of every sequence, its prefix first, lie in
    the rows that the batch has of its own followed by those of `used`.
    """

    def __init__(self, lengths: Sequence[int], prefixes: Sequence[SharedPrefix | None] = (), earlier: int = 0) -> None:
        sizes = np.asarray(lengths, dtype=np.int64)
        self.lengths = list(lengths)
        self.prefixes = list(prefixes) or [None] * len(lengths)
        self.shares = any(prefix is not None for prefix in self.prefixes)
        self.earlier = earlier
        self.before = np.array([prefix.tokens if prefix else 0 for prefix in self.prefixes], dtype=np.int64)
        own = sizes.copy()
        own[0] += earlier
        keys = own + self.before
        self.tokens = int(sizes.sum())
        self.longest = int(sizes.max())
        self.longest_keys = int(keys.max())
        self.arrays: list[Integers] = [_cumulated(sizes)]
        if self.goes_on:
            self.arrays.append(_cumulated(keys))
        if self.shares:
            self.arrays.append(self._key_rows(own))
        self.bounds = self.key_bounds = torch.empty(0, dtype=torch.int32)
        self.key_rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def goes_on(self) -> bool:
        """Whether any sequence has more keys than queries."""
        return self.shares or self.earlier > 0

    @cached_property
    def used(self) -> list[SharedPrefix]:
        """Each prefix once, by its first sequence."""
        return list(dict.fromkeys(prefix for prefix in self.prefixes if prefix is not None))

    def place(self, tensors: Sequence[Tensor]) -> None:
        """Take over what `arrays` has become on the device."""
        self.bounds = self.key_bounds = tensors[0]
        if self.goes_on:
            self.key_bounds = tensors[1]
        if self.shares:
            self.key_rows = tensors[2]

    def _key_rows(self, own: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        begins, begin = {}, int(own.sum())
        for shared in self.used:
            begins[shared] = begin
            begin += shared.tokens
        # Prefix and own tokens of each sequence in turn: how many, and where they lie.
        sizes = np.stack([self.before, own], axis=1).ravel()
        sources = np.stack(
            [np.array([begins[prefix] if prefix else 0 for prefix in self.prefixes]), np.cumsum(own) - own], axis=1
        ).ravel()
        rows: npt.NDArray[np.int64] = np.arange(sizes.sum()) + np.repeat(sources - (np.cumsum(sizes) - sizes), sizes)
        return rows


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A batch on the device.

    `ids` (int64 `[tokens]`) are the sequences one after another; `positions` (int64 `[tokens]`) count from 0 in each,
    or from the end of its prefix; `last` (int64 `[n]`) are the rows of the last tokens. `whole` is where all the
    sequences lie, `parts` the same for so many rows at a time as are computed together, with their first row.
    """

    ids: Tensor
    positions: Tensor
    last: Tensor
    whole: Packing
    parts: list[tuple[int, Packing]]


def lay_out(
    token_ids: Sequence[npt.NDArray[np.integer]],
    prefixes: Sequence[SharedPrefix | None] = (),
    part_tokens: int | None = None,
) -> tuple[list[Integers], Callable[[Sequence[Tensor]], PackedBatch]]:
    """The arrays that a batch needs on the device, and what makes the batch of the tensors they become there.

    `token_ids` are those of each sequence, at least one, without its prefix's; `part_tokens` the most tokens of a part, None for no
    limit. How many arrays and what sizes they have depends on the numbers of sequences and tokens only, but for prefixes and parts.
    """
    lengths = np.array([len(ids) for ids in token_ids], np.int64)
    whole = Packing(lengths.tolist(), prefixes)
    ends = np.cumsum(lengths)
    tokens = int(ends[-1])
    divided = part_tokens is not None and tokens > part_tokens
    parts = _parts(whole, ends, part_tokens) if divided and part_tokens else [(0, whole)]
    packings = [whole, *(packing for _, packing in parts if packing is not whole)]
    positions = np.arange(tokens) - np.repeat(ends - lengths - whole.before, lengths)
    arrays: list[Integers] = [np.concatenate(token_ids).astype(np.int64), positions, ends - 1]
    for packing in packings:
        arrays += packing.arrays

    def placed(tensors: Sequence[Tensor]) -> PackedBatch:
        ids, at, last, *bounds = tensors
        for packing in packings:
            packing.place(bounds[: len(packing.arrays)])
            bounds = bounds[len(packing.arrays) :]
        return PackedBatch(ids, at, last, whole, parts)

    return arrays, placed


def pack(
    token_ids: Sequence[npt.NDArray[np.integer]],
    device: torch.device,
    prefixes: Sequence[SharedPrefix | None] = (),
    part_tokens: int | None = None,
) -> PackedBatch:
    """Bring sequences to the device, by one copy that nobody waits for. See `lay_out`."""
    arrays, placed = lay_out(token_ids, prefixes, part_tokens)
    return placed(to_device(arrays, device))


def _parts(whole: Packing, ends: npt.NDArray[np.int64], tokens: int) -> list[tuple[int, Packing]]:
    """Rows `tokens` at a time, with the first of them."""
    starts = ends - whole.lengths
    parts = []
    for begin in range(0, int(ends[-1]), tokens):
        end = min(begin + tokens, int(ends[-1]))
        first, last = int(np.searchsorted(ends, begin, side="right")), int(np.searchsorted(starts, end))
        lengths = np.minimum(ends[first:last], end) - np.maximum(starts[first:last], begin)
        parts.append(
            (begin, Packing(lengths.tolist(), whole.prefixes[first:last], earlier=max(0, begin - int(starts[first]))))
        )
    return parts


def _cumulated(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    return np.append(0, np.cumsum(sizes)).astype(np.int32)
