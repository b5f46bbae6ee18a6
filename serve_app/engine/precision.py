"""The choice of `dtype`: what states are computed in, and what the linear layers multiply with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serve_app.engine import cpu
from serve_app.engine.device import pick_dtype
from serve_app.engine.fp8 import fp8_projections
from serve_app.engine.int8_choice import int8_projections
from serve_app.engine.layer import Project
from serve_app.engine.packed import dense
from serve_app.engine.projection import Dense
from serve_app.errors import EngineError


@dataclass(frozen=True, slots=True)
class Precision:
    """`name` as in settings; `dtype` of all states between products, `project` for the products themselves.

    `quantised` if the projections' weights are less exact than `dtype`, so that quality has to be measured.
    """

    name: str
    dtype: torch.dtype
    project: Project = Dense
    quantised: bool = False


def pick_precision(name: str | torch.dtype | None, device: torch.device) -> Precision:
    """The one asked for; None is bfloat16 on CUDA and float32 on CPU. Raises `EngineError` for one that can't be used on `device`.

    With fp8 states are bfloat16; with int8 too, on CPUs that multiply bfloat16, else float32.
    """
    if name == "fp8":
        return Precision("fp8", torch.bfloat16, fp8_projections(device), quantised=True)
    if name != "int8":
        dtype = pick_dtype(name, device)
        return Precision(str(dtype).removeprefix("torch."), dtype, dense if device.type == "cpu" else Dense)
    if device.type != "cpu":
        raise EngineError(f"dtype int8 is for CPUs, not for {device}: use bfloat16 or fp8 there")
    between = torch.bfloat16 if cpu.multiplies_bfloat16() else torch.float32
    return Precision("int8", between, int8_projections(), quantised=True)


def cpu_advice(precision: Precision) -> tuple[bool, str] | None:
    """What to say about a precision on this CPU, and whether it's a warning; None if there is nothing to say."""
    if precision.name == "bfloat16" and not cpu.multiplies_bfloat16():
        return True, "This CPU has no instructions for bfloat16 (AVX512-BF16 or AMX): dtype=float32 is faster here."
    if precision.name == "float32" and cpu.has_amx():
        return False, "This CPU has AMX: dtype=bfloat16 or int8 is several times as fast as float32 here."
    if precision.name == "float32" and cpu.multiplies_int8():
        return False, "This CPU has AVX512-VNNI: dtype=int8 is about twice as fast as float32 here."
    if precision.name == "float32" and cpu.has_avx2():
        return False, "This CPU has AVX2: dtype=int8 is up to twice as fast as float32 here."
    return None


def linear_itemsize(dtype: str | torch.dtype | None) -> float | None:
    """Bytes of a linear layer's parameter, where that isn't of the dtype that is computed in."""
    return 1.0 if dtype in {"int8", "fp8"} else None
