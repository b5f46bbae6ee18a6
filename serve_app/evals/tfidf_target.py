"""The baseline: how far the letters alone go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from serve_app.evals.encoder import Role
from serve_app.evals.target_backend import Answer, Known

MOST_FEATURES = 16_384
"""Columns, the commonest n-grams first: bounds the memory of dense vectors."""


class TfidfTarget:
    """TF-IDF of character n-grams within words, of one to three characters, fit on all texts of a suite.

    Needs no server, no model and no language. A text none of whose n-grams are columns points along one more column of its own.
    """

    threads: int | None = 1
    kept = False
    batch = 1

    def __init__(self) -> None:
        self._vectorizer: TfidfVectorizer | None = None

    def open(self) -> Known:
        note = (
            "A baseline without a model: it sees which characters texts share. It knows no roles and no instructions."
        )
        return Known("character n-grams", {"ngrams": "1-3", "max_features": MOST_FEATURES}, [note])

    def prepare(self, texts: Sequence[str]) -> None:
        vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(1, 3), max_features=MOST_FEATURES, sublinear_tf=True, dtype=np.float32
        )
        self._vectorizer = vectorizer.fit(texts)
        if (space := vectorizer.vocabulary_.get(" ")) is not None:
            vectorizer.idf_[space] = 0.0  # every word ends with one, in whatever language

    def before(self, role: Role, instruction: str | None) -> str:
        return ""

    def embed(self, texts: Sequence[str], role: Role, instruction: str | None) -> Answer:
        if self._vectorizer is None:
            raise RuntimeError("prepare() comes before the first text")
        dense = self._vectorizer.transform(texts).toarray()
        unknown = ~dense.any(axis=1, keepdims=True)
        return Answer(np.hstack([dense, unknown.astype(np.float32)]), None)

    def close(self) -> None:
        self._vectorizer = None
