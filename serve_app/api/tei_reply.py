"""Text Embeddings Inference's dialect: results to bytes, and the headers that TEI adds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from serve_app.api.http import Headers, Request
from serve_app.errors import NonFiniteError
from serve_app.types import EmbedJob, EmbedResult, Stage, TokenVectors, Vectors

# TEI's words for the stages.
_STAGES = (
    (b"x-tokenization-time", Stage.TOKENIZE),
    (b"x-queue-time", Stage.QUEUE),
    (b"x-inference-time", Stage.INFERENCE),
)


def render_embed(result: EmbedResult, job: EmbedJob, request_id: str) -> bytes:
    """`[[number]]`, one row for each input. Raises `NonFiniteError`: JSON has no NaN."""
    return _listed(_rows(finite(result.vectors)))


def render_embed_all(result: EmbedResult, job: EmbedJob, request_id: str) -> bytes:
    """`[[[number]]]`, for each input one row for each of its tokens, those of the prompt and the closing one included.
    Raises `NonFiniteError`."""
    assert isinstance(result, TokenVectors)
    first = {0, *np.cumsum(result.lengths).tolist()}
    parts = [b"["]
    for row, rendered in enumerate(_rows(finite(result.vectors))):
        parts += (b"],[" if row and row in first else b"[" if not row else b",", rendered)
    # In one go: it is long, and each copy of it would take its time.
    return b"".join([*parts, b"]]"])


def render_similarity(result: EmbedResult, job: EmbedJob, request_id: str) -> bytes:
    """`[number]`: the cosine of the first vector with each of the others, from -1 to 1. Raises `NonFiniteError`."""
    vectors = finite(result.vectors)
    # Vectors have unit length but for rounding, which is what is clipped.
    cosines = np.clip(vectors[1:] @ vectors[0], -1, 1)
    return orjson.dumps(cosines, option=orjson.OPT_SERIALIZE_NUMPY)


@dataclass(frozen=True, slots=True)
class ComputeHeaders:
    """TEI's headers: milliseconds, and what was computed on which `device`, where that is known."""

    device: str | None

    def __call__(self, result: EmbedResult, job: EmbedJob, request: Request) -> Headers:
        """Those of one reply. A token id counts as a character, as in TEI; a prompt counts in tokens only."""
        total = b"%d" % ((time.monotonic() - request.started) * 1e3)
        characters = sum(map(len, job.texts if job.texts is not None else job.token_ids or ()))
        headers = [] if self.device is None else [(b"x-compute-type", self.device.encode())]
        headers += [
            (b"x-compute-time", total),
            (b"x-compute-characters", b"%d" % characters),
            (b"x-compute-tokens", b"%d" % result.prompt_tokens),
            (b"x-total-time", total),
        ]
        return headers + [(name, b"%d" % (result.stage_seconds.get(stage, 0.0) * 1e3)) for name, stage in _STAGES]


def finite(vectors: Vectors) -> Vectors:
    """`vectors`, contiguous. Raises `NonFiniteError` if one of their numbers is none."""
    if not np.isfinite(vectors).all():
        raise NonFiniteError("a vector is not finite")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _rows(vectors: Vectors) -> Iterator[bytes]:
    # Row by row and not in one call: that lets the event loop in between, and costs no more.
    return (orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in vectors)


def _listed(items: Iterator[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)
