"""What a leak in a replica would show in, beside its memory."""

from __future__ import annotations

import asyncio
import os

import psutil
from ray._private.worker import global_worker


def vitals() -> dict[str, int]:
    """Of this process: `pid`, `tasks` of the running event loop, `file_descriptors`, and `object_references`, what it holds in Ray's
    object store."""
    return {
        "pid": os.getpid(),
        "tasks": len(asyncio.all_tasks()),
        "file_descriptors": psutil.Process().num_fds(),
        "object_references": len(global_worker.core_worker.get_all_reference_counts()),
    }
