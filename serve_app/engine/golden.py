"""Scores that the published checkpoints are known to give: a replica that computes others must not serve."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.model_config import QWEN3_EMBEDDING
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import CheckpointError
from serve_app.types import TokenIds, Vectors

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
QUERIES = ("What is the capital of China?", "Explain gravity")
DOCUMENTS = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and "
    "is responsible for the movement of planets around the sun.",
)
# Rows are queries, columns documents; from the model cards.
SCORES = {
    "0.6B": ((0.7645568, 0.1414251), (0.1354974, 0.5999550)),
    "4B": ((0.7534, 0.1147), (0.0320, 0.6258)),
    "8B": ((0.7493, 0.0751), (0.0880, 0.6318)),
}


def known_size(checkpoint: Checkpoint) -> str | None:
    """`"0.6B"`, `"4B"` or `"8B"` if the checkpoint is that published one by name and shapes, else None."""
    for size, config in QWEN3_EMBEDDING.items():
        found = checkpoint.config
        same = (found.vocab_size, found.hidden_size, found.num_hidden_layers, found.intermediate_size)
        published = (
            config.vocab_size,
            config.hidden_size,
            config.num_hidden_layers,
            config.intermediate_size,
        )
        if checkpoint.name.rsplit("/", 1)[-1] == f"Qwen3-Embedding-{size}" and same == published:
            return size
    return None


def verify(checkpoint: Checkpoint, encode: Callable[[list[TokenIds]], Vectors], tolerance: float) -> bool:
    """Compare a published checkpoint's scores with what `encode` gives; False if the checkpoint isn't a
    published one.

    Raises `CheckpointError` when a score is off by more than `tolerance`.
    """
    size = known_size(checkpoint)
    if size is None:
        return False
    tokenizer = Tokenizer.read(checkpoint.path)
    vectors = encode(tokenizer.encode_batch([*(PROMPT + query for query in QUERIES), *DOCUMENTS]))
    scores = vectors[:2] @ vectors[2:].T
    expected = np.array(SCORES[size], dtype=np.float32)
    off = float(np.abs(scores - expected).max())
    if not off <= tolerance:
        raise CheckpointError(
            f"{checkpoint.path}: this is named and shaped like Qwen3-Embedding-{size}, but its known scores come "
            f"out wrong by {off:.4f}: {np.round(scores, 4).tolist()} where the published ones are "
            f"{np.round(expected, 4).tolist()}. The files are damaged or altered, or this device computes "
            "wrongly; a fine-tune needs another folder name."
        )
    return True
