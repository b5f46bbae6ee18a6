"""Which int8 products this CPU gets: by what it has instructions for, and by a trial that they are exact.

Kernels for CPUs without AVX512-VNNI and AMX add pairs of products in 16 bits, and where these saturate nothing says so. So
products are only used that agreed with integer arithmetic in this process, for the largest numbers that there can be.
"""

from __future__ import annotations

import logging
from functools import cache, partial

import torch

from serve_app.engine import cpu
from serve_app.engine.int8 import Int8
from serve_app.engine.int8_avx2 import Avx2Int8
from serve_app.engine.int8_rows import SEVEN_BITS
from serve_app.engine.layer import Project
from serve_app.engine.native_build import BuildError
from serve_app.errors import EngineError

logger = logging.getLogger(__name__)

KINDS: dict[str, Project] = {
    "oneDNN's kernels, activations of 8 bits": Int8,
    "own kernels, activations of 7 bits": Avx2Int8,
    "oneDNN's kernels, activations of 7 bits": partial(Int8, levels=SEVEN_BITS),
}
_INPUTS, _OUTPUTS, _ROWS = 1024, 40, 48
# Of a sum of numbers up to 1. One product that is off by the smallest step is off by 6e-5; scales round a sum of 1024 by 4e-4.
_RELATIVE, _ABSOLUTE = 1e-6, 1e-5


def kinds_here() -> list[str]:
    """Those of `KINDS` that this CPU has instructions for, the best first."""
    avx2 = cpu.has_avx2()
    runs = cpu.multiplies_int8(), avx2, avx2 and cpu.has_onednn_int8()
    return [kind for kind, there in zip(KINDS, runs, strict=True) if there]


def int8_projections() -> Project:
    """The first of `kinds_here` that is exact. Raises `EngineError`, saying what to do, if none is."""
    kinds = kinds_here()
    if not kinds:
        raise EngineError(
            "dtype int8 needs a CPU with AMX, AVX512-VNNI or AVX2, and "
            f"torch {torch.__version__} doesn't find them, or its oneDNN, here. Use float32."
        )
    for kind in kinds:
        if _is_exact_here(kind):
            return KINDS[kind]
    raise EngineError(
        f"dtype int8 has no exact products on this CPU (tried: {'; '.join(kinds)}; the log says why not). Use float32."
    )


@cache
def _is_exact_here(kind: str) -> bool:
    try:
        exact = is_exact(KINDS[kind])
    # No compiler; what torch raises for what it lacks.
    except (BuildError, OSError, RuntimeError, AttributeError) as error:
        logger.warning("int8 does without %s: %s", kind, str(error).partition("\n")[0][:200])
        return False
    if exact:
        logger.info("int8 by %s", kind)
    else:
        logger.warning("int8 does without %s: sums come out wrong on this CPU", kind)
    return exact


@torch.inference_mode()
def is_exact(project: Project) -> bool:
    """Whether products agree with exact arithmetic where nothing is rounded, and every number is the largest, the smallest or 0."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-1, 2, (n, _INPUTS), generator=generator).float() for n in (_ROWS, _OUTPUTS))
    sign = torch.tensor([1.0, -1.0])
    for numbers in (x, weight):
        numbers[:2] = sign[:, None]
        numbers[2:4] = sign[:, None] * sign.repeat(_INPUTS // 2)
        numbers[4:6] = sign[:, None] * sign.repeat_interleave(2).repeat(_INPUTS // 4)
    # Kernels may go by what weights add up to.
    for part, share in zip(weight[16:].chunk(3), (0.3, 0.1, 0.03), strict=True):
        part.mul_(torch.rand(part.shape, generator=generator) < share)
    exact = x.double() @ weight.double().t()
    product, sums = project(weight), torch.ones(_ROWS, _OUTPUTS)
    product.add_to(sums, x)
    return all(torch.allclose(found.double(), exact, _RELATIVE, _ABSOLUTE) for found in (product(x), sums - 1))
