"""Texts of known classes, clustered by k-means without knowing them: do clusters find the classes again, and are they stable?

k is the number of classes. k-means is run from several random starts; figures are means over those.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, v_measure_score

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder, Role, Vectors
from serve_app.evals.metrics import in_majority
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.statistics import interval_of
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Identify the cause of action of the case summary"
HEADLINE = "V-measure"
STARTS = 10
RESAMPLES = 100

Labels = npt.NDArray[np.int64]


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
    return [
        KMeans(k, n_init=1, random_state=seed + start).fit_predict(vectors).astype(np.int64) for start in range(STARTS)
    ]


def _measure(data: list[list[Case]], encoder: Encoder, seed: int) -> SuiteResult:
    cases = data[0]
    vectors = encoder.encode(_texts(cases), Role.CLUSTERING, INSTRUCTION)
    causes = list(dict.fromkeys(case.cause for case in cases))
    classes = np.array([causes.index(case.cause) for case in cases])
    runs = clusters(vectors, len(causes), seed)
    found = Found("clustering", encoder.name, HEADLINE, seed)

    for metric, score in ((HEADLINE, v_measure_score), ("ARI", adjusted_rand_score)):

        def mean(draw: Labels, score=score) -> float:  # type: ignore[no-untyped-def]
            return float(np.mean([score(classes[draw], run[draw]) for run in runs]))

        low, high = interval_of(mean, len(cases), seed, RESAMPLES)
        found.figures.append(Figure(metric, mean(np.arange(len(cases))), low, high, n=len(cases)))
    found.mean("purity", [case.id for case in cases], np.mean([in_majority(classes, run) for run in runs], axis=0))
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
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    found.plots.append(
        Plot(
            "scatter",
            "Texts on their two principal components",
            points=PCA(2, random_state=seed).fit_transform(vectors).astype(float).tolist(),
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
