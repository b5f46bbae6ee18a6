"""Queries, documents, and which belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.evals.encoder import Encoder, Role, Vectors
from serve_app.evals.metrics import Bools, ranked_by
from serve_app.evals.result import Plot

CURVE = (1, 2, 3, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Retrieval:
    """`relevant` is bool `[queries, documents]`, with at least one document for each query."""

    name: str
    instruction: str
    query_ids: list[str]
    queries: list[str]
    document_ids: list[str]
    documents: list[str]
    relevant: Bools

    @property
    def texts(self) -> list[str]:
        return [*self.documents, *self.queries]

    def vectors(self, encoder: Encoder) -> tuple[Vectors, Vectors]:
        """Those of queries and of documents: only queries carry the instruction, as Qwen3-Embedding wants it."""
        documents = encoder.encode(self.documents, Role.DOCUMENT)
        return encoder.encode(self.queries, Role.QUERY, self.instruction), documents

    def ranked(self, encoder: Encoder) -> Bools:
        """Relevance by rank, `[queries, documents]`, by cosine similarity."""
        queries, documents = self.vectors(encoder)
        return ranked_by(queries @ documents.T, self.relevant)


def relevance(rows: int, columns: int, pairs: Sequence[tuple[int, int]]) -> Bools:
    """A matrix of what belongs together."""
    found = np.zeros((rows, columns), dtype=np.bool_)
    for row, column in pairs:
        found[row, column] = True
    return found


def curve(title: str, y_label: str, series: dict[str, npt.NDArray[np.float64]], depths: Sequence[int]) -> Plot:
    """A plot of a metric by depth, one line each."""
    return Plot(
        "lines",
        title,
        x=[float(k) for k in depths],
        x_label="documents looked at",
        y_label=y_label,
        series={name: [float(value) for value in values] for name, values in series.items()},
    )
