"""Causal attention over packed sequences by torch's own call for equal lengths: runs on every device."""

from __future__ import annotations

from itertools import groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.packing import Packing
from serve_app.engine.shared_prefix import SharedPrefix

# A mask has at most so many entries: it costs memory, and more of it than its own where the library makes numbers of it.
MASK_ENTRIES = 2**20


class Attention(Protocol):
    """Scaled dot-product attention within each sequence of a packing. `layer` says which of a prefix's keys and values to use."""

    def causal(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int, out: Tensor) -> Tensor:
        """Every token attends to its sequence up to itself: to the prefix's state in this layer, to what was computed
        earlier, to its own part.

        `query`, `out` and the result are `[tokens, heads, head_dim]`, `key` and `value` `[earlier + tokens, key_value_heads,
        head_dim]`. The result is in memory of its own or that of `out`.
        """

    def pooled(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int) -> Tensor:
        """The last token of every sequence attends to all of it: `query` and result are `[n, heads,
        head_dim]`, and none of the sequences has earlier parts."""


class GroupedAttention:
    """One call for each run of neighbouring sequences of equal length and prefix; with `alone`, for each sequence."""

    def __init__(self, *, alone: bool = False) -> None:
        self._alone = alone

    def causal(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int, out: Tensor) -> Tensor:
        """See `Attention`."""
        done = 0
        for begin, count, length, prefix in _runs(packing, self._alone):
            own = length + (packing.earlier if done == 0 else 0)
            rows = slice(done, done + count * length)
            done = rows.stop
            q = query[rows].unflatten(0, (count, length)).transpose(1, 2)
            k, v = (x[begin : begin + count * own].unflatten(0, (count, own)).transpose(1, 2) for x in (key, value))
            if prefix is not None:
                k, v = _behind(prefix.keys[layer], k), _behind(prefix.values[layer], v)
            out[rows].unflatten(0, (count, length)).copy_(_causal(q, k, v).transpose(1, 2))
        return out

    def pooled(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int) -> Tensor:
        """See `Attention`."""
        out = torch.empty_like(query)
        sharing = key.shape[1]
        done = 0
        for begin, count, length, prefix in _runs(packing, self._alone):
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


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of `q` `[n, heads, tokens, head_dim]` to `k` and `v`, which may have keys that lie before all of it."""
    length = q.shape[2]
    before = k.shape[2] - length
    if not heads_can_share(q.device, q.dtype, masked=before > 0):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    if not before:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    at_once = max(1, MASK_ENTRIES // k.shape[2])
    done = []
    for begin in range(0, length, at_once):
        end = min(begin + at_once, length)
        seen = torch.ones(end - begin, before + end, dtype=torch.bool, device=k.device).tril(before + begin)
        part = k[:, :, : before + end], v[:, :, : before + end]
        done.append(F.scaled_dot_product_attention(q[:, :, begin:end], *part, attn_mask=seen, enable_gqa=True))
    return done[0] if len(done) == 1 else torch.cat(done, dim=2)


def heads_can_share(device: torch.device, dtype: torch.dtype, *, masked: bool) -> bool:
    """Whether torch's call takes fewer key heads than query heads without writing all scores to memory.

    On CUDA of its kernels for long sequences only flash attention does, which knows neither float32 nor masks.
    """
    return device.type != "cuda" or (dtype != torch.float32 and not masked)


def _behind(prefix: Tensor, own: Tensor) -> Tensor:
    """`own` `[n, heads, tokens, head_dim]` after the same `prefix` `[tokens, heads, head_dim]` for each."""
    return torch.cat([prefix.transpose(0, 1).expand(len(own), -1, -1, -1), own], dim=2)


def _runs(packing: Packing, alone: bool) -> list[tuple[int, int, int, SharedPrefix | None]]:
    """First row of the keys, number, length and prefix of the sequences in each run with both equal. A first
    sequence with earlier parts is a run of its own."""
    runs, begin = [], 0
    sequences = [
        (length, prefix, i if alone else 0, i == 0 and packing.earlier)
        for i, (length, prefix) in enumerate(zip(packing.lengths, packing.prefixes, strict=True))
    ]
    for (length, prefix, _, earlier), group in groupby(sequences):
        count = len(list(group))
        runs.append((begin, count, length, prefix))
        begin += earlier + count * length
    return runs
