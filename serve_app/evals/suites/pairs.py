"""Pairs of sentences that say the same, and pairs that only look like it: do the scores tell them apart?

Both sentences are encoded as equals, with the instruction that the model's authors use for STS and pair classification.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from sklearn.metrics import average_precision_score, precision_recall_curve

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder, Role
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.statistics import FEWEST, RESAMPLES, interval_of
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Retrieve semantically similar text"
HEADLINE = "ROC-AUC"
HEATMAP_PAIRS = 16

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Pair(Struct, frozen=True):
    """`kind` says what makes a pair similar or hard, `lang` its languages: tables are split by them."""

    id: str
    text1: str
    text2: str
    similar: bool
    lang: str = ""
    kind: str = ""


def _read(folder: Folder) -> list[Pair]:
    pairs = folder.read("pairs", Pair)
    if pairs and not folder.problems and len({pair.similar for pair in pairs}) < 2:
        folder.wrong_as_a_whole("similar pairs and dissimilar ones are needed")
    folder.finish()
    return pairs


def _texts(pairs: list[Pair]) -> list[str]:
    return [text for pair in pairs for text in (pair.text1, pair.text2)]


def _measure(data: list[list[Pair]], encoder: Encoder, seed: int) -> SuiteResult:
    pairs = data[0]
    first = encoder.encode([pair.text1 for pair in pairs], Role.SIMILARITY, INSTRUCTION)
    second = encoder.encode([pair.text2 for pair in pairs], Role.SIMILARITY, INSTRUCTION)
    scores = np.einsum("nd,nd->n", first, second).astype(np.float64)
    similar = np.array([pair.similar for pair in pairs])
    found = Found("pairs", encoder.name, HEADLINE, seed)
    _areas(found, "", [pair.id for pair in pairs], scores, similar)
    _at_best_threshold(found, scores, similar)
    for kind in _names([pair.kind for pair in pairs if not pair.similar]):
        chosen = similar | np.array([pair.kind == kind for pair in pairs])
        _areas(found, kind, [pair.id for pair in pairs], scores, similar, chosen)
    for lang in _names([pair.lang for pair in pairs]):
        chosen = np.array([pair.lang == lang for pair in pairs])
        if min(similar[chosen].sum(), (~similar)[chosen].sum()) > 0:
            _areas(found, lang, [pair.id for pair in pairs], scores, similar, chosen)
    found.plots.append(
        Plot(
            "histogram",
            "Cosine similarity of the two sentences",
            x_label="cosine similarity",
            series={"similar": scores[similar].tolist(), "dissimilar": scores[~similar].tolist()},
        )
    )
    shown = np.unique(np.linspace(0, len(pairs) - 1, min(HEATMAP_PAIRS, len(pairs))).astype(int))
    found.plots.append(
        Plot(
            "heatmap",
            "Each first sentence against each second one: only similar pairs should stand out, on the diagonal",
            rows=[f"{pairs[i].id} {'similar' if similar[i] else 'dissimilar'}" for i in shown],
            columns=[pairs[i].id for i in shown],
            values=(first[shown] @ second[shown].T).astype(float).tolist(),
        )
    )
    found.notes.append(
        "ROC-AUC is the chance that a similar pair scores higher than a dissimilar one. By kind: all similar pairs against the "
        "dissimilar ones of that kind. Paired tests compare, for each similar pair, the share of dissimilar pairs below it."
    )
    return found.result()


def _names(values: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(values) if name]


def _areas(
    found: Found, group: str, ids: list[str], scores: Floats, similar: Bools, chosen: Bools | None = None
) -> None:
    """ROC-AUC, and average precision of the whole. Its samples are "placements" (DeLong 1988), whose mean is the area."""
    chosen = np.ones(len(scores), dtype=np.bool_) if chosen is None else chosen
    s, y = scores[chosen], similar[chosen]

    above, below = s[y], s[~y]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    found.mean(HEADLINE, [i for i, c, t in zip(ids, chosen, similar, strict=True) if c and t], wins.mean(axis=1), group)
    # The mean's own interval would take the dissimilar pairs as given; here both are drawn.
    figure = found.figures.pop()
    low, high = _area_interval(wins, found.seed)
    found.figures.append(Figure(HEADLINE, figure.value, low, high, group, len(s), figure.samples))
    if not group:

        def average(draw: npt.NDArray[np.int64]) -> float:
            return float(average_precision_score(y[draw], s[draw])) if y[draw].any() else float("nan")

        low, high = interval_of(average, len(s), found.seed)
        found.figures.append(Figure("AP", float(average_precision_score(y, s)), low, high, n=len(s)))


def _area_interval(wins: Floats, seed: int) -> tuple[float | None, float | None]:
    """Of the mean of `wins` [similar, dissimilar], rows and columns drawn alike: a draw is how often each is taken."""
    if min(wins.shape) < FEWEST:
        return None, None
    draw = np.random.default_rng(seed)
    rows, columns = (draw.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in wins.shape)
    low, high = np.quantile(np.einsum("rs,rs->r", rows @ wins, columns), [0.025, 0.975])
    return float(low), float(high)


def _at_best_threshold(found: Found, scores: Floats, similar: Bools) -> None:
    precision, recall, thresholds = precision_recall_curve(similar, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    found.figures.append(Figure("best F1", float(f1[best]), n=len(scores)))
    found.figures.append(Figure("threshold of best F1", float(thresholds[best]), n=len(scores)))


SUITE = Suite("pairs", "similar and dissimilar sentence pairs, hard ones included", _read, _texts, _measure, ("pairs",))
