"""Copies between the host and a CUDA device that nobody waits for; on CPU there is nothing to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from serve_app.types import Vectors

Integers = npt.NDArray[np.int64] | npt.NDArray[np.int32]


def staged(arrays: Sequence[Integers], pinned: bool) -> tuple[Tensor, list[tuple[int, int, torch.dtype]]]:
    """The arrays side by side in one int64 tensor on the host, in pinned memory if so wished, and of each where it begins there,
    its entries, and its dtype. Two int32 take the place of one int64."""
    places, begin = [], 0
    for array in arrays:
        dtype = torch.int64 if array.dtype == np.int64 else torch.int32
        places.append((begin, len(array), dtype))
        begin += -(-array.nbytes // 8)
    buffer = torch.empty(begin, dtype=torch.int64, pin_memory=pinned)
    filled = buffer.numpy()
    for array, (at, entries, _) in zip(arrays, places, strict=True):
        filled[at:].view(array.dtype)[:entries] = array
    return buffer, places


def cut(buffer: Tensor, places: Sequence[tuple[int, int, torch.dtype]]) -> list[Tensor]:
    """The arrays that lie in `buffer` as `staged` says: views."""
    return [buffer[at:].view(dtype)[:entries] for at, entries, dtype in places]


def to_device(arrays: Sequence[Integers], device: torch.device) -> list[Tensor]:
    """One-dimensional arrays as tensors on `device`, by one copy for all of them.

    From pinned memory, so that the host goes on while the copy waits for its turn on the device. torch keeps that
    memory from being used again before it was read.
    """
    on_cuda = device.type == "cuda"
    buffer, places = staged(arrays, pinned=on_cuda)
    return cut(buffer.to(device, non_blocking=True) if on_cuda else buffer, places)


def to_host(rows: Tensor) -> Callable[[], Vectors]:
    """Start copying `rows`, float32 `[n, hidden]`; what is returned waits for the copy and gives it, on any thread."""
    if rows.device.type != "cuda":
        return rows.numpy
    kept = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    kept.copy_(rows, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(rows.device))

    def arrived() -> Vectors:
        copied.synchronize()
        vectors: Vectors = kept.numpy()
        return vectors

    return arrived
