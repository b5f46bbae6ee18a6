"""Exact percentiles and spreads."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.float64]


def percentile(values: Values, q: float) -> float:
    """The smallest value that at least `q` percent of the values don't exceed: one that occurred, neither rounded nor in between."""
    return float(np.percentile(values, q, method="inverted_cdf"))


def spread(values: Values) -> dict[str, float]:
    """Median, lowest and highest. Raises `ValueError` if there are none."""
    if len(values) == 0:
        raise ValueError("no values")
    return {"median": float(np.median(values)), "lowest": float(min(values)), "highest": float(max(values))}


def median_interval(values: Values) -> tuple[float, float] | None:
    """Between which two of the values the true median lies, with a confidence of 95 % at least, whatever their distribution; None for
    fewer than six, which can't tell.

    Of `n` values as many lie below the median as heads come in `n` throws of a coin (the sign test turned round).
    """
    n = len(values)
    ordered = sorted(values)
    below, tail = 0, 0.5**n
    while tail <= 0.025:
        below += 1
        tail += comb(n, below) * 0.5**n
    return (float(ordered[below - 1]), float(ordered[n - below])) if below else None
