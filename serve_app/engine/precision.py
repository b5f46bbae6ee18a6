"""The choice of `dtype`: what is computed in, and what the linear layers multiply with."""

from __future__ import annotations

import torch

from serve_app.engine.device import pick_dtype
from serve_app.engine.fp8 import fp8_projections
from serve_app.engine.layer import Project
from serve_app.engine.projection import Dense


def pick_precision(dtype: str | torch.dtype | None, device: torch.device) -> tuple[torch.dtype, Project]:
    """The dtype of everything but the linear layers' weights, and what makes projections of those.

    `dtype` is as for `pick_dtype`, or `"fp8"`: bfloat16 with fp8 products. Raises `EngineError` for what can't be used on `device`.
    """
    if dtype == "fp8":
        return torch.bfloat16, fp8_projections(device)
    return pick_dtype(dtype, device), Dense


def linear_itemsize(dtype: str | torch.dtype | None) -> float | None:
    """Bytes of a linear layer's parameter, where that isn't of the dtype that is computed in."""
    return 1.0 if dtype == "fp8" else None
