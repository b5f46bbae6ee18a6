"""Dense products on CPU with weights laid out once, the way that oneDNN's kernels read them.

torch's own call lays them out anew for every product, which for a few rows takes longer than multiplying. Where packing wins is
measured once a process, by a matrix like those of the smallest published model: it goes by the CPU and by the libraries in torch.
"""

from __future__ import annotations

import logging
import time
from functools import cache

import torch
from torch import Tensor

from serve_app.engine.projection import Dense, Projection

logger = logging.getLogger(__name__)

SMALLEST = 2**20  # parameters: below, what a call costs beside the product outweighs what packing saves
_ROWS = 1024  # multiplied at once: the allocator hands the same memory out again for results of up to 32 MiB
# Up to so many rows, they are filled up to a multiple: every number of rows has a kernel of its own, made when it first comes.
_STEPS = {16: 1, 256: 16, _ROWS: 64}
_TRIED_ROWS = 32, 256
_TRIED_SHAPE = 2048, 1024
_TRIES = 5
_CACHES = 2**26  # bytes: weights come from memory, not from a cache that still has them
_WORTH = 1.0  # of the time that torch's own call takes; near to it either will do
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Packed:
    """Weights `[out, in]`, float32 or bfloat16. Raises `RuntimeError` where torch can't lay them out."""

    def __init__(self, weight: Tensor) -> None:
        self._outputs = len(weight)
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        if len(x) <= _ROWS:
            return self._product(x)
        out = x.new_empty(len(x), self._outputs) if out is None else out
        for some, into in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
            into.copy_(self._product(some))
        return out

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        for some, into in zip(x.split(_ROWS), sums.split(_ROWS), strict=True):
            into.add_(self._product(some))

    def _product(self, x: Tensor) -> Tensor:
        rows = len(x)
        step = next(step for most, step in _STEPS.items() if rows <= most)
        if rows % step:
            full = x.new_zeros(rows + -rows % step, x.shape[1])
            full[:rows] = x
            x = full
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return product[:rows]


def dense(weight: Tensor) -> Projection:
    """The faster of `Packed` and `Dense` for weights `[out, in]` on this device."""
    if weight.device.type == "cpu" and weight.numel() >= SMALLEST and _packing_wins(weight.dtype):
        return Packed(weight)
    return Dense(weight)


@cache
def _packing_wins(dtype: torch.dtype) -> bool:
    """Whether packed products agree with torch's own and take less time, few rows and many counting alike."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_TRIED_SHAPE, generator=generator).to(dtype)
    width = weight.shape[1]
    shares = []
    try:
        plain, packed = Dense(weight), Packed(weight)
        for rows in _TRIED_ROWS:
            x = torch.randn(rows, width, generator=generator).to(dtype)
            off = float((packed(x) - plain(x)).abs().max() / width**0.5)
            if not off <= _TOLERANCE[dtype]:
                logger.warning("Packed products in %s are off by %.3g here: torch's own are used", dtype, off)
                return False
            shares.append(_share(packed, plain, x))
    except (RuntimeError, AttributeError) as error:  # what torch raises for what it doesn't have
        logger.info("Weights in %s stay as they are: %s", dtype, str(error).partition("\n")[0][:200])
        return False
    return sum(shares) / len(shares) < _WORTH


@torch.inference_mode()
def _share(one: Projection, other: Projection, x: Tensor) -> float:
    """The time that `one` takes on one thread, over that of `other`: the fastest of some calls of each, in turn."""
    elsewhere = torch.empty(_CACHES, dtype=torch.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = [(_seconds(one, x, elsewhere), _seconds(other, x, elsewhere)) for _ in range(_TRIES)]
    finally:
        torch.set_num_threads(threads)
    return min(mine for mine, _ in taken) / min(theirs for _, theirs in taken)


def _seconds(projection: Projection, x: Tensor, elsewhere: Tensor) -> float:
    elsewhere.fill_(1)
    # Not the clock: others may keep the machine busy, replicas that load at the same time, say.
    begin = time.thread_time()
    projection(x)
    return time.thread_time() - begin
