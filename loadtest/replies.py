"""Whether replies are right: their form, and their vectors against the engine's own."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import orjson

from loadtest.workload import Workload, tokenizer
from serve_app.types import TokenIds, Vectors

LEAST_COSINE = 0.9999


class Reference(Protocol):
    """What says which vectors are right: the engine, or the emulated device's stand-in for it."""

    hidden_size: int

    def encode(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """Float32 `[n, hidden_size]`."""


class WrongReplyError(Exception):
    """A reply that no client should have got."""


def vectors_of(reply: bytes, inputs: int, hidden_size: int) -> tuple[Vectors, int]:
    """The vectors of a reply, base64 or JSON numbers, and its token count. Raises `WrongReplyError` unless it's in order: as many
    vectors as inputs, numbered, of the right width and of length 1."""
    try:
        value = orjson.loads(reply)
        data = value["data"]
        rows = [_vector(item["embedding"]) for item in data]
        tokens = int(value["usage"]["prompt_tokens"])
        numbers = [item["index"] for item in data]
    except (ValueError, KeyError, TypeError) as error:
        raise WrongReplyError(f"not an embeddings reply ({error!r}): {reply[:200]!r}") from error
    if numbers != list(range(inputs)):
        raise WrongReplyError(f"{inputs} inputs, vectors numbered {numbers[:10]}…")
    if any(len(row) != hidden_size for row in rows):
        raise WrongReplyError(f"vectors of {sorted({len(row) for row in rows})} dimensions, {hidden_size} expected")
    vectors = np.stack(rows)
    norms = np.linalg.norm(vectors, axis=1)
    if not np.allclose(norms, 1.0, atol=1e-3):
        raise WrongReplyError(f"vectors of length {norms.min():.4f} to {norms.max():.4f}")
    return vectors, tokens


def _vector(embedding: str | list[float]) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


def check_samples(samples: Sequence[tuple[int, bytes]], workload: Workload, engine: Reference) -> float:
    """The lowest cosine of sampled replies to the engine's vectors of the same texts. Raises `WrongReplyError`
    for a wrong one, and if there are none."""
    if not samples:
        raise WrongReplyError("no replies to look into")
    ids = tokenizer().encode_batch(workload.texts([number for number, _ in samples]))
    wanted = engine.encode(ids)
    lowest = 1.0
    for (number, reply), expected, text_ids in zip(samples, wanted, ids, strict=True):
        vectors, tokens = vectors_of(reply, 1, engine.hidden_size)
        if tokens != len(text_ids):
            raise WrongReplyError(f"text {number}: {tokens} tokens counted, it has {len(text_ids)}")
        cosine = float(vectors[0] @ expected)
        if not cosine > LEAST_COSINE:
            raise WrongReplyError(f"text {number}: cosine {cosine:.6f} to the engine's vector")
        lowest = min(lowest, cosine)
    return lowest
