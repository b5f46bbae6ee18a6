"""Our metrics against independent implementations, on random data."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from sklearn.metrics import adjusted_rand_score, roc_auc_score, top_k_accuracy_score, v_measure_score
from sklearn.metrics.cluster import contingency_matrix

from serve_app.evals.metrics import (
    Bools,
    Floats,
    hit_at,
    ndcg_at,
    order_by,
    precision_at,
    ranked_by,
    recall_at,
    reciprocal_rank,
)
from serve_app.evals.metrics_clusters import adjusted_rands, contingencies, in_majority, v_measures
from serve_app.evals.metrics_pairs import auc_shares

METRICS = {
    "P_5": lambda ranked: precision_at(ranked, 5),
    "P_10": lambda ranked: precision_at(ranked, 10),
    "recall_5": lambda ranked: recall_at(ranked, 5),
    "recall_100": lambda ranked: recall_at(ranked, 100),
    "success_1": lambda ranked: hit_at(ranked, 1),
    "success_5": lambda ranked: hit_at(ranked, 5),
    "recip_rank": reciprocal_rank,
    "ndcg_cut_10": lambda ranked: ndcg_at(ranked, 10),
}


def random_task(seed: int, queries: int, documents: int, levels: int = 0) -> tuple[Floats, Bools]:
    """Scores and relevance with at least one relevant document each; `levels` makes scores coarse, so that many are equal."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(queries, documents))
    if levels:
        scores = draw.integers(0, levels, (queries, documents)).astype(np.float64)
    relevant = draw.random((queries, documents)) < draw.uniform(0.01, 0.5, (queries, 1))
    relevant[np.arange(queries), draw.integers(0, documents, queries)] = True
    return scores, relevant


def by_trec_eval(scores: Floats, relevant: Bools) -> dict[str, list[float]]:
    documents = scores.shape[1]
    # trec_eval puts the alphabetically last of equal scores first.
    names = [f"d{documents - number:04}" for number in range(documents)]
    judged = {
        f"q{q:04}": {name: int(found) for name, found in zip(names, row, strict=True)} for q, row in enumerate(relevant)
    }
    run = {f"q{q:04}": dict(zip(names, map(float, row), strict=True)) for q, row in enumerate(scores)}
    measures = {"P.5,10", "recall.5,100", "success.1,5", "recip_rank", "ndcg_cut.10"}
    found = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run)
    return {metric: [found[query][metric] for query in sorted(found)] for metric in METRICS}


@pytest.mark.parametrize(("documents", "levels"), [(3, 0), (7, 2), (40, 0), (40, 3), (150, 0), (150, 1)])
def test_retrieval_metrics_are_those_of_trec_eval(documents: int, levels: int) -> None:
    scores, relevant = random_task(documents + levels, 200, documents, levels)
    theirs = by_trec_eval(scores, relevant)
    ranked = ranked_by(scores, relevant)
    for metric, ours in METRICS.items():
        np.testing.assert_allclose(ours(ranked), theirs[metric], atol=1e-9, err_msg=metric)


def test_top_k_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(5)
    scores, right = draw.normal(size=(300, 20)), draw.integers(0, 20, 300)
    ranked = ranked_by(scores, right[:, None] == np.arange(20))
    for k in (1, 3):
        theirs = top_k_accuracy_score(right, scores, k=k, labels=np.arange(20))
        assert hit_at(ranked, k).mean() == pytest.approx(theirs)


def test_equal_scores_keep_the_order_of_the_data_and_rounding_noise_does_not_count() -> None:
    noise = np.array([[0.5, 0.5 + 3e-8, 0.5 - 3e-8, 0.6]], dtype=np.float32)
    assert order_by(noise).tolist() == [[3, 0, 1, 2]]
    assert order_by(np.array([[0.5, 0.50001]])).tolist() == [[1, 0]]
    assert order_by(np.array([[-np.inf, 0.0, -np.inf]])).tolist() == [[1, 0, 2]]


def test_values_known_by_hand() -> None:
    ranked = np.array([[False, True, False, True], [True, False, False, False]])
    assert precision_at(ranked, 5).tolist() == [0.4, 0.2], "k counts, though there are only 4"
    assert recall_at(ranked, 2).tolist() == [0.5, 1.0]
    assert hit_at(ranked, 1).tolist() == [0.0, 1.0]
    assert reciprocal_rank(ranked).tolist() == [0.5, 1.0]
    gained, best = 1 / np.log2(3) + 1 / np.log2(5), 1 + 1 / np.log2(3)
    np.testing.assert_allclose(ndcg_at(ranked, 10), [gained / best, 1.0])


@pytest.mark.parametrize(("items", "classes", "clusters"), [(30, 3, 3), (270, 5, 5), (60, 4, 7), (8, 8, 2)])
def test_cluster_metrics_are_those_of_scikit_learn(items: int, classes: int, clusters: int) -> None:
    draw = np.random.default_rng(items)
    known, found = draw.integers(0, classes, (20, items)), draw.integers(0, clusters, (20, items))
    found[:10] = np.where(draw.random((10, items)) < 0.8, known[:10] % clusters, found[:10])
    tables = contingencies(known, found, classes, clusters)
    pairs = list(zip(known, found, strict=True))
    np.testing.assert_allclose(v_measures(tables), [v_measure_score(*pair) for pair in pairs], atol=1e-12)
    np.testing.assert_allclose(adjusted_rands(tables), [adjusted_rand_score(*pair) for pair in pairs], atol=1e-12)
    purity = [contingency_matrix(*pair).max(axis=0).sum() / items for pair in pairs]
    np.testing.assert_allclose([in_majority(*pair).mean() for pair in pairs], purity)


def test_clusters_that_say_nothing() -> None:
    one = np.zeros(6, dtype=np.int64)
    two = np.array([0, 0, 0, 1, 1, 1])
    for known, found in ((one, one), (two, one), (two, 1 - two)):
        [table] = contingencies(known[None], found[None], 2, 2)
        assert v_measures(table[None])[0] == pytest.approx(v_measure_score(known, found), abs=1e-12)
        assert adjusted_rands(table[None])[0] == pytest.approx(adjusted_rand_score(known, found), abs=1e-12)


@pytest.mark.parametrize("levels", [0, 3])
def test_shares_of_roc_auc_have_it_as_their_mean_and_delong_variance(levels: int) -> None:
    draw = np.random.default_rng(levels)
    similar = draw.random(80) < 0.3
    scores = draw.normal(size=80) + similar if not levels else draw.integers(0, levels, 80).astype(np.float64)
    shares = auc_shares(similar, scores)
    assert shares.mean() == pytest.approx(roc_auc_score(similar, scores))

    # DeLong's variance, computed from its definition one placement at a time.
    def placement(value: float, others: Floats, sign: int) -> float:
        return float(np.mean([1.0 if sign * (value - o) > 0 else 0.5 if value == o else 0.0 for o in others]))

    above = np.array([placement(value, scores[~similar], 1) for value in scores[similar]])
    below = np.array([placement(value, scores[similar], -1) for value in scores[~similar]])
    expected = above.var() / len(above) + below.var() / len(below)
    assert shares.var() / len(shares) == pytest.approx(expected)
