"""Attention over packed sequences by torch's variable-length kernel, one call for a whole batch. CUDA
only."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from serve_app.engine.packing import Packing

_WIDEST_HEAD = 256
_OLDEST_CAPABILITY = (8, 0)


def varlen_runs_on(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernel exists for this device, dtype and head dimension."""
    return (
        device.type == "cuda"
        and dtype == torch.bfloat16
        and head_dim % 8 == 0
        and head_dim <= _WIDEST_HEAD
        and torch.cuda.get_device_capability(device) >= _OLDEST_CAPABILITY
    )


class VarlenAttention:
    """`torch.nn.attention.varlen.varlen_attn`, whose keywords differ between torch releases.

    `invariant` says whether a sequence's results never depend on the others.
    """

    def __init__(self) -> None:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - only where there is CUDA

        known = inspect.signature(varlen_attn).parameters
        self._kernel: Any = varlen_attn
        self._causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
        self._common: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}
        self.invariant = "num_splits" in known
        # One split: with more, the order of summation depends on the longest batch-mate.
        self._common |= {"num_splits": 1} if "num_splits" in known else {}

    def causal(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int, out: Tensor) -> Tensor:
        """See `Attention`. With fewer queries than keys the kernel lets the last query see all keys, which is what goes
        on from a prefix."""
        key, value = self._all_keys(query, key, value, packing, layer)
        bounds = packing.bounds, packing.key_bounds, packing.longest, packing.longest_keys
        done: Tensor = self._kernel(query, key, value, *bounds, **self._causal, **self._common)
        return done

    def pooled(self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int) -> Tensor:
        """See `Attention`."""
        key, value = self._all_keys(query, key, value, packing, layer)
        ones = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
        bounds = ones, packing.key_bounds, 1, packing.longest_keys
        done: Tensor = self._kernel(query, key, value, *bounds, **self._common)
        return done

    def _all_keys(
        self, query: Tensor, key: Tensor, value: Tensor, packing: Packing, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Keys and values with those of the prefixes in their places, packed as `key_bounds` says."""
        if packing.key_rows is not None:
            key = torch.cat([key, *(prefix.keys[layer] for prefix in packing.used)])[packing.key_rows]
            value = torch.cat([value, *(prefix.values[layer] for prefix in packing.used)])[packing.key_rows]
        return self._repeated(query, key), self._repeated(query, value)

    def _repeated(self, query: Tensor, shared: Tensor) -> Tensor:
        """Key or value heads repeated for each query head, where this torch doesn't do it by itself."""
        if "enable_gqa" in self._common:
            return shared
        return shared.repeat_interleave(query.shape[1] // shared.shape[1], dim=1)
