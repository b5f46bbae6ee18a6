"""Exact percentiles and spreads."""

from __future__ import annotations

from collections.abc import Sequence

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
