"""Causal attention over packed sequences: the one place that sees where a sequence begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Packing:
    """Where the sequences of one batch lie in its `[tokens, ...]` tensors.

    `lengths` are tokens a sequence. `positions` (int64 `[tokens]`) count from 0 in each sequence; `last`
    (int64 `[n]`) are the rows of the last tokens; `bounds` (int32 `[n + 1]`) the cumulated lengths. Tensors
    are on `device`.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        sizes = np.asarray(lengths, dtype=np.int64)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        self.lengths = list(lengths)
        self.longest = int(sizes.max())
        self.tokens = int(ends[-1])
        positions = np.arange(self.tokens, dtype=np.int64) - np.repeat(starts, sizes)
        self.positions = torch.from_numpy(positions).to(device)
        self.last = torch.from_numpy(ends - 1).to(device)
        self.bounds = torch.from_numpy(np.append(starts, self.tokens).astype(np.int32)).to(device)


class GroupedAttention:
    """Scaled dot-product attention, one call for each run of neighbouring sequences of equal length."""

    def causal(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, out: Tensor) -> None:
        """Every token attends to its sequence up to itself.

        `query` and `out` are `[tokens, heads, head_dim]`, `key` and `value` `[tokens, key_value_heads,
        head_dim]`.
        """
        for begin, count, length in _runs(packing):
            rows = slice(begin, begin + count * length)
            q, k, v = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value))
            done = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            out[rows].unflatten(0, (count, length)).copy_(done.transpose(1, 2))

    def pooled(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
        """The last token of every sequence attends to all of it: `query` and result are `[n, heads,
        head_dim]`."""
        out = torch.empty_like(query)
        sharing = key.shape[1]
        done = 0
        for begin, count, length in _runs(packing):
            rows = slice(begin, begin + count * length)
            k, v = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (key, value))
            # Heads that share a key head take the place of positions, so that keys needn't be repeated for
            # them.
            q = query[done : done + count].unflatten(1, (sharing, -1))
            out[done : done + count] = F.scaled_dot_product_attention(q, k, v).flatten(1, 2)
            done += count
        return out


def _runs(packing: Packing) -> list[tuple[int, int, int]]:
    """First row, number and length of the sequences in each run of equal lengths."""
    runs, begin = [], 0
    for length, group in groupby(packing.lengths):
        count = len(list(group))
        runs.append((begin, count, length))
        begin += count * length
    return runs
