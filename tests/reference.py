"""What the service should answer, computed in this process from the same checkpoint."""

from __future__ import annotations

from functools import cache

import numpy as np

from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.engine import Engine
from serve_app.engine.tokenizer import Tokenizer
from serve_app.types import DEMO_MODEL_ID, Vectors

TOLERANCE = 1e-5
VOCABULARY = Checkpoint.read(resolve(DEMO_MODEL_ID)).config.vocab_size


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.read(resolve(DEMO_MODEL_ID))


@cache
def engine() -> Engine:
    return Engine.load(DEMO_MODEL_ID, device="cpu")


def expected(texts: list[str], instruction: str | None = None) -> Vectors:
    """The demo checkpoint's vectors, one text at a time."""
    if instruction:
        texts = [f"Instruct: {instruction}\nQuery:{text}" for text in texts]
    return np.concatenate([engine().encode([ids]) for ids in tokenizer().encode_batch(texts)])


def assert_same(vectors: object, wanted: Vectors) -> None:
    np.testing.assert_allclose(np.asarray(vectors, np.float32), wanted, atol=TOLERANCE, rtol=0)
