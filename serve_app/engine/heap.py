"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def trim() -> None:
    """Give back what was freed. glibc keeps it, in holes between what is still used, where the next large tensor may not fit;
    elsewhere this does nothing."""
    if (release := _malloc_trim()) is not None:
        release(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
