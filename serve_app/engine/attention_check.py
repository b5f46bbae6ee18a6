"""Whether a kernel for attention computes attention here: small seeded inputs against the definition."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from serve_app.engine.attention import Attention, GroupedAttention
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.packing import Packing, pack
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.varlen_attention import VarlenAttention, varlen_runs_on
from serve_app.errors import EngineError

logger = logging.getLogger(__name__)

# Outputs are averages of standard normal values. Rounding to bfloat16 moves them by some 0.01, seeing a wrong key by 0.3 or more.
_TOLERANCE = {torch.bfloat16: 0.05, torch.float32: 1e-3}
_PART_TOKENS = 50


class DividedAttention:
    """`fast` where every sequence has as many queries as keys, `safe` where some go on from a prefix or an earlier part."""

    def __init__(self, fast: Attention, safe: Attention) -> None:
        self._fast = fast
        self._safe = safe

    def causal(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int, out: Tensor) -> Tensor:
        """See `Attention`."""
        return self._of(packing).causal(query, key, value, packing, layer, out)

    def pooled(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int) -> Tensor:
        """See `Attention`."""
        return self._of(packing).pooled(query, key, value, packing, layer)

    def _of(self, packing: Packing) -> Attention:
        return self._safe if packing.goes_on else self._fast


def pick_attention(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> tuple[Attention, bool]:
    """The fastest attention that computes what it should on `device`, and whether it does so behind prefixes too.

    A kernel that disagrees with the definition of attention isn't used; the log says why.
    """
    if varlen_runs_on(device, dtype, config.head_dim):
        return checked(VarlenAttention(), config, device, dtype)
    safe = GroupedAttention()
    # On CPU the tests have done it.
    return safe, device.type == "cpu" or disagreement(safe, config, device, dtype, goes_on=True) is None


def checked(fast: Attention, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> tuple[Attention, bool]:
    """`fast` as far as it agrees with the definition of attention on `device`, for the rest torch's call for equal lengths; and
    whether `fast` is used for all."""
    safe = GroupedAttention()
    if (wrong := disagreement(fast, config, device, dtype, goes_on=False)) is not None:
        logger.warning("The variable-length attention kernel is not used on %s: %s", device, wrong)
        return safe, False
    if (wrong := disagreement(fast, config, device, dtype, goes_on=True)) is not None:
        logger.warning("The variable-length attention kernel is not used on %s behind prefixes: %s", device, wrong)
        return DividedAttention(fast, safe), False
    return fast, True


def invariant_attention(attention: Attention, device: torch.device) -> Attention:
    """One for which a sequence's results never depend on the others, to the last bit.

    Raises `EngineError` where there is none: on CUDA only the variable-length kernel promises it, in newer torch releases.
    """
    if device.type == "cpu":
        return GroupedAttention(alone=True)
    if isinstance(attention, VarlenAttention) and attention.invariant:
        return attention
    raise EngineError(
        "batch_invariant on a GPU needs dtype bfloat16, compute capability 8.0 or newer, and torch's variable-length attention with "
        f"num_splits, which must pass its check: this is {torch.cuda.get_device_name(device)} with torch {torch.__version__}."
    )


def disagreement(
    attention: Attention, config: ModelConfig, device: torch.device, dtype: torch.dtype, *, goes_on: bool
) -> str | None:
    """How `attention` differs from the definition, None if it doesn't; with `goes_on`, for sequences that go on from prefixes and are
    computed in parts, else for others only."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, config.head_dim, generator=generator).to(device, dtype)

    key_heads = config.num_key_value_heads
    prefixes: list[SharedPrefix | None] = []
    lengths = [1, 17, 130, 5]
    if goes_on:
        one, other = (SharedPrefix(normal(1, n, key_heads), normal(1, n, key_heads)) for n in (9, 70))
        prefixes = [one, other, None, one]
    ids = [np.zeros(length, np.int64) for length in lengths]
    batch = pack(ids, device, prefixes, _PART_TOKENS if goes_on else None)
    query, last = normal(len(batch.ids), config.num_attention_heads), normal(len(ids), config.num_attention_heads)
    key, value = normal(len(batch.ids), key_heads), normal(len(batch.ids), key_heads)
    found = torch.empty_like(query)
    try:
        for begin, packing in batch.parts:
            rows = slice(begin, begin + sum(packing.lengths))
            keys = slice(begin - packing.earlier, rows.stop)
            found[rows] = attention.causal(query[rows], key[keys], value[keys], packing, 0, found[rows])
        pooled = attention.pooled(last, key, value, batch.whole, 0)
        expected, expected_pooled = _by_definition(query, last, key, value, batch.whole)
        off = max(float((a.float() - b).abs().max()) for a, b in ((found, expected), (pooled, expected_pooled)))
    except (RuntimeError, ValueError, TypeError) as error:  # what torch raises for kernels that aren't there
        return (
            f"it failed its check with {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        )
    if not off <= _TOLERANCE[dtype]:
        return f"its results are off by {off:.3g}, where {_TOLERANCE[dtype]} is rounding"
    return None


def _by_definition(query: Tensor, last: Tensor, key: Tensor, value: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Causal and pooled attention in float32, written out: the softmax of scores, times values."""
    everywhere: list[Tensor] = []
    pooled: list[Tensor] = []
    begin = 0
    for i, (length, prefix) in enumerate(zip(packing.lengths, packing.prefixes, strict=True)):
        rows = slice(begin, begin + length)
        begin += length
        k, v = key[rows], value[rows]
        if prefix is not None:
            k, v = torch.cat([prefix.keys[0], k]), torch.cat([prefix.values[0], v])
        k, v = (x.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1).transpose(0, 1) for x in (k, v))
        for q, into in ((query[rows], everywhere), (last[i : i + 1], pooled)):
            scores = q.float().transpose(0, 1) @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            seen = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).tril(k.shape[1] - len(q))
            weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
            into.append((weights @ v).transpose(0, 1))
    return torch.cat(everywhere), torch.cat(pooled)
