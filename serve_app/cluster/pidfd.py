"""Waiting for the end of processes that aren't children. Nothing but the standard library, for HAProxy's guard."""

from __future__ import annotations

import os
import select
from pathlib import Path


def opened(pid: int) -> int | None:
    """A descriptor of a process that `ends` takes; None if the process is gone, or `pid` is 0."""
    try:
        return os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        return None


def ends(*processes: int | None, seconds: float | None = None) -> bool:
    """Whether one of the processes ends within so many seconds; without `seconds`, wait until one does."""
    waiting = select.poll()
    for process in processes:
        if process is None:
            return True
        waiting.register(process, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else seconds * 1000))


def parent_of(pid: int) -> int:
    """The pid of a process's parent; 0 if the process is gone."""
    try:
        # The name, in parentheses, may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
