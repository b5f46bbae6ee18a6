"""What an engine is asked before it may serve: questions that have one right answer, whatever the model.

Cheap enough for every start: five passes over a few tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from serve_app.engine.finding import Finding
from serve_app.types import TokenIds, Vectors

Encode = Callable[[list[TokenIds]], Vectors]
"""Token ids to float32 `[n, hidden]`, of unit length."""

COSINE = {"float32": 1e-4, "bfloat16": 5e-3}
"""How far from 1 the cosine of one text's vectors may be, computed in different ways: rounding differs with the shapes of products."""
QUANTISED_COSINE = 2e-2

_LENGTHS = (1, 6, 3)


def sequences(vocab_size: int) -> list[TokenIds]:
    """Seeded token ids in several lengths."""
    random = np.random.default_rng(7)
    return [random.integers(0, vocab_size, length).astype(np.int32) for length in _LENGTHS]


def check_engine(
    encode: Encode, every_token: Callable[[list[TokenIds]], list[Vectors]], ids: Sequence[TokenIds], dtype: str
) -> list[Finding]:
    """Numbers, length, place and independence of the vectors of `ids` (two inputs at least).

    `every_token` gives for each input float32 `[tokens, hidden]`, the states that vectors are taken from.
    """
    together = encode(list(ids))
    found = [check_finite(together)]
    if found[0].passed:
        alone = encode([ids[1]])
        backwards = encode(list(ids)[::-1])[::-1]
        last = every_token([ids[1]])[0]
        found += [
            check_norm(together),
            check_pooling(alone[0], last, dtype),
            check_batch([together[1], backwards[1]], alone[0], dtype),
        ]
    return found


def check_finite(vectors: Vectors) -> Finding:
    """Whether all are numbers."""
    bad = int((~np.isfinite(vectors).all(axis=1)).sum())
    if not bad:
        return Finding("finite", True, f"{len(vectors)} vectors without NaN or infinity")
    return Finding(
        "finite",
        False,
        f"{bad} of {len(vectors)} vectors have NaN or infinity. Weights are damaged (`embedserve verify MODEL` looks for them), or "
        "the dtype overflows: use bfloat16 or float32.",
    )


def check_norm(vectors: Vectors) -> Finding:
    """Whether all have unit length."""
    off = float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max())
    if off < 1e-3:
        return Finding("norm", True, f"length 1 within {off:.0e}")
    return Finding(
        "norm",
        False,
        f"vectors don't have length 1: off by {off:.4f}. Their inner product is no cosine, so that thresholds and rankings of vector "
        "databases go wrong. They have to be L2-normalised last.",
    )


def check_pooling(vector: Vectors, states: Vectors, dtype: str) -> Finding:
    """Whether `vector` is the last of `states` `[tokens, hidden]`, normalised; names what it is instead, if that can be seen."""
    last = _cosine(vector, states[-1])
    if 1 - last <= tolerance_of(dtype):
        return Finding("pooling", True, f"taken from the last token (cosine {last:.6f})")
    others = {"the mean of all tokens": states.mean(axis=0), "the first token": states[0]}
    if len(states) > 1:
        others["the last token but one"] = states[-2]
    nearest = max(others, key=lambda name: _cosine(vector, others[name]))
    near = _cosine(vector, others[nearest])
    looks = f", and looks like {nearest} ({near:.4f})" if 1 - near <= tolerance_of(dtype) else ""
    return Finding(
        "pooling",
        False,
        f"the vector isn't that of the last token: cosine {last:.4f}{looks}. These models are trained for last-token pooling.",
    )


def check_batch(batched: Sequence[Vectors], alone: Vectors, dtype: str) -> Finding:
    """Whether one input's vectors from batches are that of the input `alone`."""
    worst = min(_cosine(vector, alone) for vector in batched)
    if 1 - worst <= tolerance_of(dtype):
        return Finding("batch invariance", True, f"the same alone and among others: cosine {worst:.6f}")
    return Finding(
        "batch invariance",
        False,
        f"a text's vector depends on what is computed with it: cosine {worst:.4f} with that of the text alone. Texts of one request "
        "leak into each other: don't use these vectors; another device or dtype may compute right.",
    )


def tolerance_of(dtype: str) -> float:
    """How far from 1 the cosine of two vectors may be that should be the same, in `dtype`."""
    return COSINE.get(dtype, QUANTISED_COSINE)


def _cosine(a: Vectors, b: Vectors) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-30))
