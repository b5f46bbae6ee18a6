"""Causal attention over packed sequences: the one place that sees where a sequence begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.shared_prefix import SharedPrefix


class Packing:
    """Where the sequences of one batch lie in its `[tokens, ...]` tensors.

    `lengths` are tokens a sequence, without those of the prefix that it goes on from: `prefixes` has one or
    None for each. `positions` (int64 `[tokens]`) count from 0 in each sequence, or from the end of its prefix;
    `last` (int64 `[n]`) are the rows of the last tokens; `bounds` (int32 `[n + 1]`) the cumulated lengths.
    `key_bounds` and `longest_keys` are the same with the prefixes. Tensors are on `device`.
    """

    def __init__(
        self, lengths: Sequence[int], device: torch.device, prefixes: Sequence[SharedPrefix | None] = ()
    ) -> None:
        sizes = np.asarray(lengths, dtype=np.int64)
        self.prefixes = list(prefixes) or [None] * len(lengths)
        self.shares = any(prefix is not None for prefix in self.prefixes)
        self._before = np.array([prefix.tokens if prefix else 0 for prefix in self.prefixes], dtype=np.int64)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        self.lengths = list(lengths)
        self.longest = int(sizes.max())
        self.tokens = int(ends[-1])
        positions = np.arange(self.tokens, dtype=np.int64) - np.repeat(starts - self._before, sizes)
        self.positions = torch.from_numpy(positions).to(device)
        self.last = torch.from_numpy(ends - 1).to(device)
        self.bounds = torch.from_numpy(np.append(starts, self.tokens).astype(np.int32)).to(device)
        self.key_bounds, self.longest_keys = self.bounds, self.longest
        if self.shares:
            keys = sizes + self._before
            self.key_bounds = torch.from_numpy(np.append(0, np.cumsum(keys)).astype(np.int32)).to(device)
            self.longest_keys = int(keys.max())

    @cached_property
    def used(self) -> list[SharedPrefix]:
        """Each prefix once, by its first sequence."""
        return list(dict.fromkeys(prefix for prefix in self.prefixes if prefix is not None))

    @cached_property
    def key_rows(self) -> Tensor:
        """Where the keys of every sequence, its prefix first, lie in the batch's own rows followed by those of
        `used`: int64 `[tokens with prefixes]`."""
        begins, begin = {}, self.tokens
        for shared in self.used:
            begins[shared] = begin
            begin += shared.tokens
        rows, own = [], 0
        for prefix, length in zip(self.prefixes, self.lengths, strict=True):
            if prefix is not None:
                rows.append(np.arange(begins[prefix], begins[prefix] + prefix.tokens))
            rows.append(np.arange(own, own + length))
            own += length
        return torch.from_numpy(np.concatenate(rows)).to(self.positions.device)


class GroupedAttention:
    """Scaled dot-product attention, one call for each run of neighbouring sequences of equal length and prefix."""

    def causal(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int, out: Tensor) -> None:
        """Every token attends to its sequence up to itself, the prefix's state in this layer included.

        `query` and `out` are `[tokens, heads, head_dim]`, `key` and `value` `[tokens, key_value_heads,
        head_dim]`.
        """
        for begin, count, length, prefix in _runs(packing):
            rows = slice(begin, begin + count * length)
            q, k, v = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (query, key, value))
            if prefix is None:
                done = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            else:
                k, v = _behind(prefix.keys[layer], k), _behind(prefix.values[layer], v)
                seen = torch.ones(length, k.shape[2], dtype=torch.bool, device=k.device).tril(prefix.tokens)
                done = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
            out[rows].unflatten(0, (count, length)).copy_(done.transpose(1, 2))

    def pooled(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int) -> Tensor:
        """The last token of every sequence attends to all of it: `query` and result are `[n, heads,
        head_dim]`."""
        out = torch.empty_like(query)
        sharing = key.shape[1]
        done = 0
        for begin, count, length, prefix in _runs(packing):
            rows = slice(begin, begin + count * length)
            k, v = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (key, value))
            if prefix is not None:
                k, v = _behind(prefix.keys[layer], k), _behind(prefix.values[layer], v)
            # Heads that share a key head take the place of positions, so that keys needn't be repeated for
            # them.
            q = query[done : done + count].unflatten(1, (sharing, -1))
            out[done : done + count] = F.scaled_dot_product_attention(q, k, v).flatten(1, 2)
            done += count
        return out


def _behind(prefix: Tensor, own: Tensor) -> Tensor:
    """`own` `[n, heads, tokens, head_dim]` after the same `prefix` `[tokens, heads, head_dim]` for each."""
    return torch.cat([prefix.transpose(0, 1).expand(len(own), -1, -1, -1), own], dim=2)


def _runs(packing: Packing) -> list[tuple[int, int, int, SharedPrefix | None]]:
    """First row, number, length and prefix of the sequences in each run with both equal."""
    runs, begin = [], 0
    for (length, prefix), group in groupby(zip(packing.lengths, packing.prefixes, strict=True)):
        count = len(list(group))
        runs.append((begin, count, length, prefix))
        begin += count * length
    return runs
