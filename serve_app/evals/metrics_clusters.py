"""How well clusters agree with known classes.

V-measure and the adjusted Rand index of one clustering are scikit-learn's. Those here are the same formulas over many contingency
tables `[…, classes, clusters]` at once, for intervals.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import entropy

from serve_app.evals.metrics import Floats

Labels = npt.NDArray[np.int64]


def in_majority(classes: Labels, clusters: Labels) -> Floats:
    """For each item 1 if its class is the most frequent one of its cluster (the first of equals), else 0. The mean is the purity: the
    largest classes of all clusters together, over the number of items (Manning, Raghavan, Schütze: Introduction to Information
    Retrieval, 16.3)."""
    [table] = contingencies(classes[None], clusters[None], int(classes.max()) + 1, int(clusters.max()) + 1)
    return np.asarray(table.argmax(axis=0)[clusters] == classes, dtype=np.float64)


def contingencies(classes: Labels, clusters: Labels, n_classes: int, n_clusters: int) -> Labels:
    """How many items of each class are in each cluster: of `[draws, items]` each, `[draws, classes, clusters]`."""
    size = n_classes * n_clusters
    cells = (np.arange(len(classes))[:, None] * n_classes + classes) * n_clusters + clusters
    counts = np.bincount(cells.ravel(), minlength=size * len(classes))
    return counts.reshape(-1, n_classes, n_clusters).astype(np.int64)


def v_measures(tables: Labels) -> Floats:
    """Harmonic mean of homogeneity and completeness: 2 I / (H(classes) + H(clusters)) (Rosenberg, Hirschberg, EMNLP 2007)."""
    alone = entropy(tables.sum(axis=-1), axis=-1) + entropy(tables.sum(axis=-2), axis=-1)
    together = entropy(tables.reshape(*tables.shape[:-2], -1), axis=-1)
    return np.asarray(np.divide(2 * (alone - together), alone, out=np.ones_like(alone), where=alone > 0))


def adjusted_rands(tables: Labels) -> Floats:
    """How many pairs of items both treat alike, 0 for as many as by chance and 1 for all (Hubert, Arabie, 1985)."""
    alike = _couples(tables).sum(axis=(-2, -1))
    classes, clusters = (_couples(tables.sum(axis=axis)).sum(axis=-1) for axis in (-1, -2))
    chance = classes * clusters / _couples(tables.sum(axis=(-2, -1)))
    room = (classes + clusters) / 2 - chance
    return np.asarray(np.divide(alike - chance, room, out=np.ones_like(room), where=room > 0))


def _couples(counts: Labels) -> Floats:
    return counts * (counts - 1) / 2
