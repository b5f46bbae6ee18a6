"""The parts of a layer between its products as kernels that torch compiles: on CUDA one launch and one pass over memory each."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.elementwise import Elementwise, TorchElementwise

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.bfloat16: 0.05, torch.float32: 1e-4}  # of values that are 4 or so at most
_KINDS = 64

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


class CompiledElementwise:
    """See `Elementwise`. Compiles when it is first called with a new kind of arguments, not with new numbers of tokens above one."""

    def __init__(self, compiler: Compiler | None = None) -> None:
        """`compiler` is torch's own, if nothing else is given."""
        compiler = compiler or torch_compiler()
        self._norm: Any = compiler(_norm)
        self._turn: Any = compiler(_turn)
        self._gate: Any = compiler(_gate)

    def norm(self, x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        self._norm(x, weight, eps, out)
        return out

    def turn_(self, heads: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> None:
        """See `Elementwise`."""
        self._turn(heads, weight, eps, cos, sin)

    def gate(self, gate_up: Tensor, out: Tensor) -> Tensor:
        """See `Elementwise`."""
        self._gate(gate_up, out)
        return out


def compiled_elementwise(device: torch.device, dtype: torch.dtype, compiler: Compiler | None = None) -> Elementwise:
    """Compiled kernels, where torch can compile them for `device` and they compute what its own calls do in `dtype`; else those."""
    plain = TorchElementwise()
    try:
        compiled = CompiledElementwise(compiler)
        for tokens in (1, 70):
            _compare(compiled, plain, tokens, device, dtype)
    except Exception as error:  # the compiler raises what it likes
        reason = str(error).strip().partition("\n")[0][:200]
        logger.warning("Norms, rotation and gate aren't compiled on %s: %s: %s", device, type(error).__name__, reason)
        return plain
    return compiled


def torch_compiler(**options: Any) -> Compiler:
    """torch's own, for any number of rows, and for more kinds of arguments than it takes as a rule: beyond its limit it computes
    without compiling.

    In newer releases settings hold for the thread that makes them only, so the limit goes along with the function.
    """
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        return partial(torch.compile, dynamic=True, recompile_limit=_KINDS, **options)
    settings = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # in some older releases, in others
        if hasattr(settings, name):
            setattr(settings, name, max(_KINDS, getattr(settings, name)))
    return partial(torch.compile, dynamic=True, **options)


def _norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    wide = x.float()
    out.copy_(wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float())


def _turn(heads: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> None:
    wide = heads.float()
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()
    first, second = normed.chunk(2, dim=-1)
    c, s = cos.float(), sin.float()
    heads.copy_(torch.cat([first * c - second * s, second * c + first * s], dim=-1))


def _gate(gate_up: Tensor, out: Tensor) -> None:
    gate, up = gate_up.chunk(2, dim=1)
    out.copy_(F.silu(gate.float()) * up.float())


def _compare(found: Elementwise, expected: Elementwise, tokens: int, device: torch.device, dtype: torch.dtype) -> None:
    """Raises `RuntimeError` if two implementations differ on seeded values, laid out as the model has them: in all kinds of
    arguments that a pass has, so that no request waits for the compiler."""
    generator = torch.Generator().manual_seed(tokens)
    # No two sizes are equal: what torch sees equal at first, it compiles for as equal.

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    weight, weights_of_heads, weight_of_heads = normal(64), normal(6, 20), normal(20)
    wide = weight.float()
    results = []
    with torch.inference_mode():  # which weights are older than, and states aren't
        x, heads, gate_up = normal(tokens, 64), normal(tokens, 8, 20), normal(tokens, 96)
        cos, sin = normal(tokens, 1, 10), normal(tokens, 1, 10)
        for each in (found, expected):
            turned, keys, queries = heads.clone(), heads.clone(), x.new_empty(tokens, 6, 20)
            queries.copy_(heads[:, :6])
            each.turn_(turned[:, :6], weights_of_heads, 1e-6, cos, sin)
            each.turn_(keys[:, :6], weight_of_heads, 1e-6, cos, sin)
            each.turn_(queries, weight_of_heads, 1e-6, cos, sin)
            pooled = x.float().clone()  # as at the end of a pass
            each.norm(pooled, wide, 1e-6, out=pooled)
            into = each.norm(x, weight, 1e-6, out=torch.empty_like(x))
            gated = each.gate(gate_up.clone(), out=gate_up.new_empty(tokens, 48))
            results.append((turned, keys, queries, pooled, into, gated))
    for one, other in zip(*results, strict=True):
        off = float(((one - other).abs() / other.abs().clamp(min=1)).max())
        if not off <= _TOLERANCE[dtype]:
            raise RuntimeError(f"the compiled kernels are off by {off:.3g} in {dtype}")
