"""Vectors in fewer bytes: float32 `[n, dimensions]`, L2-normalised, to the output types that clients can ask for.

The types are Cohere's (`embedding_types`) and Voyage's (`output_dtype`), and float16. What each means here:

| type | values | bytes for 1024 dimensions |
|---|---|---|
| `float` | float32 | 4096 |
| `float16` | IEEE half precision, rounded to nearest even | 2048 |
| `int8` | `round(127 * x / r)`, clipped to -127..127 | 1024 |
| `uint8` | the int8 value + 128, so 1..255 with 128 for zero | 1024 |
| `ubinary` | one bit a dimension, `x > 0`, the first dimension in the highest bit of the first byte; 0..255 | 128 |
| `binary` | the `ubinary` byte - 128, as int8: -128..127 | 128 |

`binary` and `ubinary` are what sentence-transformers' `quantize_embeddings` and Cohere's API give.

For int8 there is no common definition: sentence-transformers takes ranges from a calibration set, dimension by dimension, and
hosted APIs don't say. Here the range is the same for all vectors, `r = min(1, 8 / sqrt(dimensions))`: a component of a
unit vector is about `1 / sqrt(dimensions)`, so that 8 times as much is left for those that stand out, and a step is a
16th of the typical component. A range per vector would use the 127 steps better, but products of two vectors could no longer be
compared with those of others unless each scale was stored too. With a fixed one
`dot(a, b) ~ dot_int8(a, b) * (r / 127) ** 2` for all vectors of equal length, so that an index can rank by the
integers alone. What lies beyond the range is clipped; it only lessens components that dominate their vector.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from serve_app.errors import InvalidRequestError
from serve_app.types import OutputType, Vectors

Quantised: TypeAlias = npt.NDArray[Any]

STEPS = 127
"""The largest int8 value used. -128 is not, so that a vector and its negative have mirrored values."""

RANGE_IN_TYPICAL_COMPONENTS = 8.0


def int8_range(dimensions: int) -> float:
    """The component that becomes 127, for vectors of so many dimensions."""
    return min(1.0, RANGE_IN_TYPICAL_COMPONENTS / math.sqrt(dimensions))


def quantise(vectors: Vectors, output: OutputType) -> Quantised:
    """`vectors`, float32 `[n, dimensions]`, as `output`: an array `[n, dimensions]`, or `[n, dimensions / 8]` for the binary types.

    Values are finite and `dimensions` fills whole bytes where it must: see `check_packing`.
    """
    match output:
        case OutputType.FLOAT:
            return np.ascontiguousarray(vectors, dtype="<f4")
        case OutputType.FLOAT16:
            return vectors.astype("<f2")
        case OutputType.INT8:
            return _int8(vectors)
        case OutputType.UINT8:
            return (_int8(vectors).view(np.uint8) ^ 0x80).astype(np.uint8)  # the same as + 128
        case OutputType.UBINARY:
            return np.packbits(vectors > 0, axis=1)
        case OutputType.BINARY:
            return (np.packbits(vectors > 0, axis=1) ^ 0x80).view(np.int8)  # the same as - 128


def _int8(vectors: Vectors) -> npt.NDArray[np.int8]:
    scaled = vectors * np.float32(STEPS / int8_range(vectors.shape[1]))
    np.rint(scaled, out=scaled)
    np.clip(scaled, -STEPS, STEPS, out=scaled)
    return scaled.astype(np.int8)


def check_packing(output: OutputType, dimensions: int, param: str) -> None:
    """Raises `InvalidRequestError`, naming `param`, if vectors of so many dimensions don't fill whole bytes of a binary type."""
    if output in (OutputType.BINARY, OutputType.UBINARY) and dimensions % 8:
        raise InvalidRequestError(
            f"'{output.value}' packs eight dimensions into a byte, and {dimensions} isn't a multiple of eight. Ask for "
            f"{dimensions // 8 * 8} or {(dimensions // 8 + 1) * 8} dimensions, or for another type.",
            param,
        )
