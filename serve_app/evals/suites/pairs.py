"""Pairs of sentences that say the same, and pairs that only look like it: do the scores tell them apart?

Both sentences are encoded as equals, with the instruction that the model's authors use for STS and pair classification.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace
from sklearn.metrics import average_precision_score, precision_recall_curve

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder, Role
from serve_app.evals.metrics import DECIMALS, Bools, Floats
from serve_app.evals.metrics_pairs import auc_shares
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.statistics import FEWEST, RESAMPLES, bounds, interval_of
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Retrieve semantically similar text"
HEADLINE = "ROC-AUC"
HEATMAP_PAIRS = 16


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
    scores = np.round(np.einsum("nd,nd->n", first.astype(np.float64), second), DECIMALS)
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
        "dissimilar ones of that kind. The best F1 is that of the best threshold on these very pairs: an upper bound for one set "
        "elsewhere. A threshold differs from model to model and says nothing of quality."
    )
    if found.figures[0].value < 0.5:
        found.notes.append(
            "ROC-AUC below 0.5: dissimilar pairs score higher than similar ones. That comes of going by words alone, where hard pairs "
            "share most of theirs and translations none."
        )
    return found.result()


def _names(values: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(values) if name]


def _areas(
    found: Found, group: str, ids: list[str], scores: Floats, similar: Bools, chosen: Bools | None = None
) -> None:
    """ROC-AUC, and average precision of the whole. Its samples are those of `auc_shares`."""
    chosen = np.ones(len(scores), dtype=np.bool_) if chosen is None else chosen
    s, y = scores[chosen], similar[chosen]

    found.mean(HEADLINE, [i for i, c in zip(ids, chosen, strict=True) if c], auc_shares(y, s), group)
    # The mean's own interval would let the sizes of both kinds vary; here each kind is drawn by itself.
    figure = found.figures.pop()
    low, high = _area_interval(s[y], s[~y], found.seed)
    found.figures.append(replace(figure, low=low, high=high))
    if not group:

        def average(draw: npt.NDArray[np.int64]) -> float:
            return float(average_precision_score(y[draw], s[draw])) if y[draw].any() else float("nan")

        low, high = interval_of(average, len(s), found.seed)
        found.figures.append(Figure("AP", float(average_precision_score(y, s)), low, high, n=len(s)))


def _area_interval(above: Floats, below: Floats, seed: int) -> tuple[float | None, float | None]:
    """Of the share of similar and dissimilar scores of which the similar one is higher: a draw is how often each is taken."""
    if min(len(above), len(below)) < FEWEST:
        return None, None
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    draw = np.random.default_rng(seed)
    rows, columns = (draw.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in wins.shape)
    return bounds(np.einsum("rs,rs->r", rows @ wins, columns))


def _at_best_threshold(found: Found, scores: Floats, similar: Bools) -> None:
    precision, recall, thresholds = precision_recall_curve(similar, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    found.figures.append(Figure("best F1", float(f1[best]), n=len(scores)))
    found.figures.append(Figure("threshold of best F1", float(thresholds[best]), n=len(scores)))


SUITE = Suite("pairs", "similar and dissimilar sentence pairs, hard ones included", _read, _texts, _measure, ("pairs",))
