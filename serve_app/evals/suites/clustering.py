"""Texts of known classes, clustered by k-means without knowing them: do clusters find the classes again, and are they stable?

k is the number of classes. k-means is run from several random starts; figures are means over those, because one lucky start says
little. Texts are encoded as `Role.CLUSTERING` with the instruction below.
"""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
from msgspec import Struct
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, v_measure_score

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder, Role, Vectors
from serve_app.evals.metrics_clusters import Labels, adjusted_rands, contingencies, in_majority, v_measures
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.statistics import bounds, draws_of
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Identify the cause of action of the case summary"
HEADLINE = "purity"
STARTS = 10


class Case(Struct, frozen=True):
    """`cause` is the class."""

    id: str
    cause: str
    text: str


def _read(folder: Folder) -> list[Case]:
    cases = folder.read("cases", Case)
    if cases and not folder.problems and len({case.cause for case in cases}) < 2:
        folder.wrong_as_a_whole("texts of two causes or more are needed")
    folder.finish()
    return cases


def _texts(cases: list[Case]) -> list[str]:
    return [case.text for case in cases]


def clusters(vectors: Vectors, k: int, seed: int) -> list[Labels]:
    """Assignments [texts] of `STARTS` runs of k-means, each from one random start of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different vectors than clusters: some stay empty
        return [
            KMeans(k, n_init=1, random_state=seed + start).fit_predict(vectors).astype(np.int64)
            for start in range(STARTS)
        ]


def _measure(data: list[list[Case]], encoder: Encoder, seed: int) -> SuiteResult:
    cases = data[0]
    vectors = encoder.encode(_texts(cases), Role.CLUSTERING, INSTRUCTION)
    causes = list(dict.fromkeys(case.cause for case in cases))
    classes = np.array([causes.index(case.cause) for case in cases])
    runs = clusters(vectors, len(causes), seed)
    found = Found("clustering", encoder.name, HEADLINE, seed)

    found.mean(HEADLINE, [case.id for case in cases], np.mean([in_majority(classes, run) for run in runs], axis=0))
    draws = draws_of(len(cases), seed)
    tables = [contingencies(classes[draws], run[draws], len(causes), len(causes)) for run in runs if draws is not None]
    for metric, score, of_tables in (
        ("V-measure", v_measure_score, v_measures),
        ("ARI", adjusted_rand_score, adjusted_rands),
    ):
        low, high = bounds(np.mean([of_tables(one) for one in tables], axis=0)) if tables else (None, None)
        value = float(np.mean([score(classes, run) for run in runs]))
        found.figures.append(Figure(metric, value, low, high, n=len(cases)))
    stability = [adjusted_rand_score(a, b) for a, b in combinations(runs, 2)]
    found.figures.append(Figure("stability", float(np.mean(stability)), n=len(stability)))

    table = np.zeros((len(causes), len(causes)))
    np.add.at(table, (classes, runs[0]), 1)
    order = np.argsort(table.argmax(axis=0), kind="stable")
    found.plots.append(
        Plot(
            "heatmap",
            "Classes and clusters of the first start, in texts",
            rows=causes,
            columns=[f"cluster {number + 1}" for number in range(len(causes))],
            values=table[:, order].tolist(),
        )
    )
    with np.errstate(invalid="ignore"):  # where all vectors are the same, no axis has a share of their variance
        points = PCA(2, svd_solver="full").fit_transform(vectors.astype(np.float64))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    found.plots.append(
        Plot(
            "scatter",
            "Texts on their two principal components",
            points=points.tolist(),
            labels=[case.cause for case in cases],
            marks=[f"cluster {place[number] + 1}" for number in runs[0]],
        )
    )
    found.notes.append(
        f"k-means from {STARTS} random starts; stability is the mean ARI of two starts' clusters. Intervals draw other texts, "
        "with the clusters as they are. Only purity has a value for each text, so only that is tested between targets."
    )
    return found.result()


SUITE = Suite("clustering", "k-means on short case summaries of known causes", _read, _texts, _measure, ("clustering",))
