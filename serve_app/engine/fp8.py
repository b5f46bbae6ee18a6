"""fp8 products on Hopper and Ada: weights with one scale for each output channel, activations with one for each token.

A token's scale comes from that token alone, so that one with outliers changes nothing for its batch-mates. Values are float8_e4m3fn
(three bits of mantissa, 448 at most), sums float32; the product is `torch._scaled_mm` with scales by row and column.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from serve_app.engine.projection import Projection
from serve_app.errors import EngineError

logger = logging.getLogger(__name__)

_LARGEST = 448.0
_SMALLEST_SCALE = 1e-12  # of a row of zeros, or nearly
_MULTIPLE = 16  # of both sides of the weights: the kernel's rule
OLDEST_CAPABILITY = (8, 9)
_TOLERANCE = 0.02  # of the largest product: rounding to bfloat16 takes 0.004

Quantise = Callable[[Tensor], tuple[Tensor, Tensor]]


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` `[rows, columns]` as float8_e4m3fn of the same shape, and float32 scales `[rows, 1]` to multiply it with.

    A row with NaN or infinity becomes NaN: never a finite number.
    """
    wide = x.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST_SCALE * _LARGEST) / _LARGEST
    return (wide / scale).to(torch.float8_e4m3fn), scale


class Fp8:
    """Weights `[out, in]` in fp8. Takes and gives bfloat16, on CPU float32 too."""

    def __init__(self, weight: Tensor, quantise: Quantise = quantise_rows) -> None:
        """Raises `EngineError` for a shape that there is no kernel for."""
        if weight.shape[0] % _MULTIPLE or weight.shape[1] % _MULTIPLE:
            raise EngineError(
                f"dtype fp8: a matrix of this model is {list(weight.shape)}, both sides must be multiples of {_MULTIPLE}. "
                "Use dtype=bfloat16."
            )
        quantised, scale = quantise_rows(weight)
        self._transposed = quantised.t()  # column by column, as the kernel wants it
        self._scale = scale.t().contiguous()
        self._quantise = quantise

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Projection`."""
        quantised, scale = self._quantise(x)
        product: Tensor = torch._scaled_mm(
            quantised,
            self._transposed,
            scale_a=scale,
            scale_b=self._scale,
            out_dtype=x.dtype,
            use_fast_accum=x.device.type == "cuda",
            out=out,
        )
        return product

    def add_to(self, sums: Tensor, x: Tensor) -> None:
        """See `Projection`."""
        sums.add_(self(x))


def fp8_projections(device: torch.device) -> Callable[[Tensor], Projection]:
    """What makes fp8 projections on `device`, after it was seen to multiply as it should there.

    Raises `EngineError` where it can't.
    """
    if device.type != "cuda":
        raise EngineError("dtype fp8 needs a CUDA device (Hopper, Ada or newer). On CPU use int8, bfloat16 or float32.")
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        raise EngineError(
            f"dtype fp8 needs a GPU with compute capability 8.9 or newer (Ada, Hopper); {torch.cuda.get_device_name(device)} has "
            f"{capability[0]}.{capability[1]}. Use dtype=bfloat16."
        )
    quantise = _fused(device)
    if (wrong := disagreement(device, torch.bfloat16, quantise)) is not None:
        raise EngineError(f"dtype fp8: {wrong}. Use dtype=bfloat16.")
    return lambda weight: Fp8(weight, quantise)


def disagreement(device: torch.device, dtype: torch.dtype, quantise: Quantise = quantise_rows) -> str | None:
    """How a product on `device` differs from the same in float32, None if it doesn't; one token is large, and one small."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(33, 256, generator=generator).to(device, dtype)
    x[3] *= 1000
    x[4] /= 1000
    weight = torch.randn(192, 256, generator=generator).to(device, dtype)
    (left, left_scale), (right, right_scale) = quantise_rows(x), quantise_rows(weight)
    expected = (left.float() * left_scale) @ (right.float() * right_scale).t()
    try:
        found = Fp8(weight, quantise)(x, out=x.new_empty(len(x), len(weight)))
    except (RuntimeError, AttributeError, TypeError) as error:
        return f"torch {torch.__version__} can't multiply it here ({str(error).partition(chr(10))[0]})"
    off = float(((found.float() - expected).abs() / expected.abs().amax(dim=1, keepdim=True)).max())
    return None if off <= _TOLERANCE else f"products on {device} are off by {off:.3g} of the largest"


@torch.inference_mode()
def _fused(device: torch.device) -> Quantise:
    """Quantising in one kernel instead of five, where torch can make one."""
    from serve_app.engine.compiled import torch_compiler  # noqa: PLC0415 - only where there is CUDA

    try:
        fused: Quantise = torch_compiler()(quantise_rows)
        for rows in (1, 2, 33):
            x = torch.randn(rows, 256, device=device, dtype=torch.bfloat16)
            for found, expected in zip(fused(x), quantise_rows(x), strict=True):
                torch.testing.assert_close(found.float(), expected.float(), rtol=0.13, atol=1e-6)
    except Exception as error:  # the compiler raises what it likes
        logger.warning("fp8 quantises without a compiled kernel, which is slower: %s", type(error).__name__)
        return quantise_rows
    return fused
