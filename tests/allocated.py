"""What torch allocates on CPU while something is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


def peak_bytes(compute: Callable[[], T], trace: Path) -> tuple[T, int]:
    """What `compute` gives, and the most that was allocated at once, beyond what was before. Writes a profile to `trace`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        done = compute()
    profile.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    moves = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = np.cumsum([size for _, size in moves])
    return done, int(held.max() - min(0, held.min()))
