"""The parts of a layer between its products: norms, rotation of heads, the gate. Which code computes them is chosen here."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.native import NativeElementwise, native_library
from serve_app.engine.norm import rms_norm
from serve_app.engine.rope import rotate_


class Elementwise(Protocol):
    """Computes in float32 and rounds to the dtype of its arguments, which all have the same. Threads may share it."""

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """`x` `[tokens, n]` over the root of the mean of its rows' squares, times `weight` `[n]`; written to `out`, which may be
        `x`, and returned."""

    def turn_(self, heads: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> None:
        """Normalise each of `heads` `[tokens, heads, head_dim]` and rotate it, in place.

        `weight` is `[head_dim]` or `[heads, head_dim]`; `cos` and `sin` `[tokens, 1, head_dim / 2]`.
        """

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """SiLU of the left half of `gate_up` `[tokens, 2n]`, which may be overwritten, times its right half; written to `out`
        `[tokens, n]` and returned."""


class TorchElementwise:
    """By torch's own calls, on any device."""

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        return rms_norm(x, weight, eps, out)

    def turn_(self, heads: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> None:
        """See `Elementwise`."""
        rms_norm(heads, weight, eps, out=heads)
        rotate_(heads, cos, sin)

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        gate, up = gate_up.chunk(2, dim=1)
        return torch.mul(F.silu(gate, inplace=True), up, out=out)


def pick_elementwise(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Elementwise:
    """The fastest that runs on `device` in `dtype`: the kernels compiled for it, where there is a compiler."""
    if device.type == "cuda":
        from serve_app.engine.compiled import compiled_elementwise  # noqa: PLC0415 - it builds on this module

        return compiled_elementwise(device, dtype)
    library = native_library()
    return TorchElementwise() if library is None else NativeElementwise(library)
