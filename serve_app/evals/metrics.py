"""Retrieval metrics over binary relevance, one value a query.

Every function takes `ranked`: bool `[queries, documents]`, whether the document at each rank (best first) is relevant, as
`ranked_by` gives it. Definitions are those of trec_eval (https://github.com/usnistgov/trec_eval) for binary judgements. A query
without any relevant document has none of these values: suites refuse such data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


DECIMALS = 6
"""As far as scores count. What lies beyond is rounding noise of float32 products, which differs between machines."""


def order_by(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    """Documents by score, best first, `[queries, documents]`. Equal scores (to `DECIMALS`) keep the documents' order in the data."""
    return np.argsort(-np.round(scores.astype(np.float64), DECIMALS), axis=1, kind="stable")


def ranked_by(scores: npt.NDArray[np.floating], relevant: Bools) -> Bools:
    """Relevance by rank: both `[queries, documents]`, ordered as by `order_by`."""
    return np.asarray(np.take_along_axis(relevant, order_by(scores), axis=1), dtype=np.bool_)


def precision_at(ranked: Bools, k: int) -> Floats:
    """Relevant documents among the first `k`, over `k`."""
    return np.asarray(ranked[:, :k].sum(axis=1) / k, dtype=np.float64)


def recall_at(ranked: Bools, k: int) -> Floats:
    """Relevant documents among the first `k`, over all relevant ones."""
    return np.asarray(ranked[:, :k].sum(axis=1) / ranked.sum(axis=1), dtype=np.float64)


def hit_at(ranked: Bools, k: int) -> Floats:
    """1 if any of the first `k` is relevant, else 0: "top-k accuracy"."""
    return np.asarray(ranked[:, :k].any(axis=1), dtype=np.float64)


def reciprocal_rank(ranked: Bools) -> Floats:
    """1 / rank of the first relevant document. Its mean over queries is the MRR."""
    return np.asarray(1.0 / (ranked.argmax(axis=1) + 1.0), dtype=np.float64)


def ndcg_at(ranked: Bools, k: int) -> Floats:
    """Discounted cumulative gain of the first `k`, each relevant document worth 1 / log2(rank + 1), over the best possible."""
    discounts = 1.0 / np.log2(np.arange(2, min(k, ranked.shape[1]) + 2))
    best = np.concatenate([[0.0], np.cumsum(discounts)])
    most = np.minimum(ranked.sum(axis=1), len(discounts))
    return np.asarray((ranked[:, :k] @ discounts) / best[most], dtype=np.float64)
