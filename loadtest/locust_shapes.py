"""How many users a Locust run has when: steady, step, spike and soak, all scaled to the run's own users and time."""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = 5
DEFAULT_SECONDS = 300.0
"""Of shapes that have a course, where no run time is given; without one, steady and soak go on until stopped."""


def steady(part: float) -> float:
    """All users all the time."""
    return 1.0


def step(part: float) -> float:
    """A fifth more of the users after each fifth of the time: where does latency begin to grow?"""
    return min(STEPS, math.floor(part * STEPS) + 1) / STEPS


def spike(part: float) -> float:
    """A fifth of the users, but for the middle fifth of the time, when all of them come at once: is it as before afterwards?"""
    return 1.0 if 0.4 <= part < 0.6 else 0.2


def soak(part: float) -> float:
    """Up within a twentieth of the time, all users for long, and down again: does anything grow that shouldn't?"""
    return max(0.05, min(1.0, part / 0.05, (1.0 - part) / 0.05))


SHAPES: dict[str, Callable[[float], float]] = {"steady": steady, "step": step, "spike": spike, "soak": soak}


def users_at(shape: str, seconds: float, run_seconds: float | None, most: int) -> int | None:
    """How many of at most `most` users there are so many seconds after the start; None when the run is over."""
    if run_seconds is None and shape in ("steady", "soak"):
        return most
    whole = run_seconds or DEFAULT_SECONDS
    if seconds >= whole:
        return None
    return max(1, round(most * SHAPES[shape](seconds / whole)))
