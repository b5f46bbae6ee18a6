"""Whether a CUDA device still answers after an error.

Most errors leave a process without its device: after an illegal access, say, every later call fails, whatever it does. Memory that is
short doesn't.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from serve_app.errors import EngineDeadError

T = TypeVar("T")


def lost(device: torch.device) -> bool:
    """Whether nothing can be computed on `device` any more; waits for what is."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def attempt(step: Callable[[], T], device: torch.device) -> T:
    """What `step` gives or raises; `EngineDeadError` instead where `device` is lost by it."""
    try:
        return step()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if lost(device):
            raise EngineDeadError("the GPU answers no more: this process can't use it again") from error
        raise


def watched(launch: Callable[..., Callable[[], T]], device: torch.device) -> Callable[..., Callable[[], T]]:
    """`launch`, which puts work into the queue of `device` and returns what waits for it: both as `attempt` has it."""

    def launched(*arguments: object) -> Callable[[], T]:
        wait = attempt(lambda: launch(*arguments), device)
        return lambda: attempt(wait, device)

    return launched
