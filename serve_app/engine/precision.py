"""What a model computes with: the dtype of its states, and how its linear layers store their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serve_app.engine.device import pick_dtype
from serve_app.engine.int8 import Int8, int8_runs_here
from serve_app.engine.layer import Project
from serve_app.engine.projection import Dense
from serve_app.errors import EngineError


@dataclass(frozen=True, slots=True)
class Precision:
    """`name` as in settings; `dtype` of all states between products, `project` for the products themselves.

    `quantised` if the weights are less than `dtype` has room for, so that quality has to be measured.
    """

    name: str
    dtype: torch.dtype
    project: Project = Dense
    quantised: bool = False


def pick_precision(name: str | torch.dtype | None, device: torch.device) -> Precision:
    """The one asked for; None is bfloat16 on CUDA and float32 on CPU. Raises `EngineError` for one that can't be used on `device`.

    With int8, states are bfloat16 on CPUs that multiply it, else float32.
    """
    if name != "int8":
        dtype = pick_dtype(name, device)
        return Precision(str(dtype).removeprefix("torch."), dtype)
    if device.type != "cpu":
        raise EngineError(f"dtype int8 is for CPUs, not for {device}: use bfloat16 there")
    if not int8_runs_here():
        raise EngineError(
            "dtype int8 needs a CPU with AVX512-VNNI or AMX, and a torch with oneDNN: this one "
            f"(torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}) doesn't offer that. Use float32."
        )
    return Precision("int8", torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32, Int8, quantised=True)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 (AVX512-BF16 or AMX)."""
    return _supports("_is_avx512_bf16_supported") or cpu_has_amx()


def cpu_has_amx() -> bool:
    """Whether this CPU has AMX, whose tiles multiply bfloat16 and int8 many times as fast as float32."""
    return _supports("_is_amx_tile_supported")


def cpu_advice(precision: Precision) -> tuple[bool, str] | None:
    """Whether to warn, and what to say, about a precision on this CPU; None if it suits."""
    if precision.name == "bfloat16" and not cpu_multiplies_bfloat16():
        return True, "This CPU has no instructions for bfloat16 (AVX512-BF16 or AMX): dtype=float32 is faster here."
    if precision.name == "float32" and cpu_has_amx():
        return (
            False,
            f"This CPU has AMX: dtype=bfloat16{' or int8' if int8_runs_here() else ''} is several times as fast.",
        )
    if precision.name == "float32" and int8_runs_here():
        return False, "This CPU has AVX512-VNNI: dtype=int8 is about twice as fast."
    return None


def _supports(name: str) -> bool:
    """One of torch's own questions about this CPU; False where this torch doesn't know it."""
    ask = getattr(torch.cpu, name, None)
    return bool(ask and ask())
