"""Other processes: whether they have ended, and ending them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def gone(process: psutil.Process) -> bool:
    """Whether it has ended, waited for by its parent or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to each that is still there, at once."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
