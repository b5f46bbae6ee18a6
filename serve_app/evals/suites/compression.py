"""Shorter vectors and smaller numbers: what of the quality is left, and how many bytes?

Vectors come in full from the target and are cut and quantised here, with the definitions that the service itself uses
(`serve_app.api.quantise`): cutting is followed by normalising again. Both queries and documents are quantised. With rescoring, four
times as many documents as wanted are taken by Hamming distance of the bits, and ranked again by the product of the float query with
the bits' signs (Yamada, Asai, Hajishirzi, 2021, https://arxiv.org/abs/2106.00882).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from serve_app.api.quantise import quantise
from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder, Vectors
from serve_app.evals.metrics import Bools, Floats, ndcg_at, ranked_by, recall_at
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.statistics import interval_of
from serve_app.evals.suites import crosslingual, faq, techdocs
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.retrieval import Retrieval
from serve_app.evals.suites.suite import Suite
from serve_app.types import OutputType

RETENTION = "nDCG@10 retention"
HEADLINE = "nDCG@10 retention at 1/32 of the size"
"""Bits of all dimensions, rescored: the same saving whatever the model's length, so that targets can be put side by side."""

SMALLEST = 32
DEPTH, MULTIPLIER = 10, 4
FORMS = ("float32", "int8", "binary", "binary + rescoring")
BITS = {"float32": 32, "int8": 8, "binary": 1, "binary + rescoring": 1}


def _read(folder: Folder) -> Retrieval:
    """A user's own data has the format of techdocs, faq or crosslingual; what is shipped is read from all three."""
    if folder.has("titles"):
        return crosslingual.retrieval(crosslingual.SUITE.read(folder))
    if folder.has("entries"):
        return faq.retrieval(faq.SUITE.read(folder))
    return techdocs.retrieval(techdocs.read(folder))


def _texts(asked: Retrieval) -> list[str]:
    return asked.texts


def shorter(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions`, of length 1 again."""
    cut = vectors[:, :dimensions]
    length = np.linalg.norm(cut, axis=1, keepdims=True)
    # A baseline that counts words may have nothing at all in the first dimensions.
    return np.asarray(cut / np.where(length == 0, 1, length), dtype=np.float32)


def scores(queries: Vectors, documents: Vectors, form: str) -> npt.NDArray[np.floating]:
    """Scores `[queries, documents]` in one of `FORMS`."""
    if form == "float32":
        return queries @ documents.T
    if form == "int8":
        # In float64, which holds such sums of products exactly and multiplies faster than numpy does integers.
        whole = [quantise(vectors, OutputType.INT8).astype(np.float64) for vectors in (queries, documents)]
        return np.asarray(whole[0] @ whole[1].T)
    # Signs from the packed bits; their product is dimensions - 2 x Hamming distance.
    signs = [_signs(vectors) for vectors in (queries, documents)]
    coarse = signs[0] @ signs[1].T
    if form == "binary":
        return coarse
    found = np.full(coarse.shape, -np.inf, dtype=np.float32)
    kept = np.argsort(-coarse, axis=1, kind="stable")[:, : DEPTH * MULTIPLIER]
    fine = np.take_along_axis(queries @ signs[1].T, kept, axis=1)
    np.put_along_axis(found, kept, fine, axis=1)
    return found


def _signs(vectors: Vectors) -> npt.NDArray[np.float32]:
    bits = np.unpackbits(quantise(vectors, OutputType.UBINARY), axis=1, count=vectors.shape[1])
    return bits.astype(np.float32) * 2 - 1


def lengths(full: int) -> list[int]:
    """The full length, and powers of two below it."""
    return [full, *(2**power for power in range(12, 4, -1) if SMALLEST <= 2**power < full)]


def _measure(data: list[Retrieval], encoder: Encoder, seed: int) -> SuiteResult:
    vectors = [asked.vectors(encoder) for asked in data]
    full = vectors[0][0].shape[1]

    def quality(dimensions: int, form: str) -> tuple[Floats, Floats]:
        """nDCG@10 and recall@10 of every query of all sets."""
        ranked: list[Bools] = [
            ranked_by(scores(shorter(queries, dimensions), shorter(documents, dimensions), form), asked.relevant)
            for asked, (queries, documents) in zip(data, vectors, strict=True)
        ]
        return (
            np.concatenate([ndcg_at(part, DEPTH) for part in ranked]),
            np.concatenate([recall_at(part, DEPTH) for part in ranked]),
        )

    ndcg, recall = quality(full, "float32")
    ids = [f"{asked.name} {i}" for asked in data for i in asked.query_ids]
    found = Found("compression", encoder.name, HEADLINE, seed)
    rows = [(dimensions, form, *quality(dimensions, form)) for dimensions in lengths(full) for form in FORMS]
    found.mean("nDCG@10 uncompressed", ids, ndcg)
    found.mean("recall@10 uncompressed", ids, recall)
    if not recall.any():
        found.notes.append(
            "Nothing relevant is among the ten best of the uncompressed vectors: there is nothing to retain."
        )
        return replace(found.result(), headline="nDCG@10 uncompressed")
    at_full = next(row for row in rows if row[:2] == (full, FORMS[-1]))
    found.figures.insert(0, _retention(HEADLINE, "", at_full[2], ndcg, seed))
    lines: dict[str, list[float]] = {form: [] for form in FORMS}
    for dimensions, form, its_ndcg, its_recall in rows:
        group = f"{dimensions} dims {form}"
        found.figures.append(_retention(RETENTION, group, its_ndcg, ndcg, seed))
        lines[form].append(found.figures[-1].value)
        found.figures.append(_retention("recall@10 retention", group, its_recall, recall, seed))
        found.figures.append(Figure("size", -(-dimensions * BITS[form] // 8), group=group, unit="bytes"))
    found.plots.append(
        Plot(
            "lines",
            "nDCG@10, relative to the uncompressed vectors",
            x=[float(dimensions) for dimensions in lengths(full)],
            x_label="dimensions",
            y_label="retention",
            series=lines,
        )
    )
    found.notes.append(
        f"Over {len(ids)} queries of {', '.join(asked.name for asked in data)}. Retention is the ratio of means, compressed to "
        "full float32; that of the whole suite is of bits of all dimensions, rescored. Rescoring needs no float documents. Only "
        "models trained for it (Matryoshka) keep most in their first dimensions."
    )
    return found.result()


def _retention(metric: str, group: str, compressed: Floats, whole: Floats, seed: int) -> Figure:
    def ratio(draw: npt.NDArray[np.int64]) -> float:
        below = whole[draw].sum()
        return float(compressed[draw].sum() / below) if below else float("nan")

    low, high = interval_of(ratio, len(whole), seed)
    return Figure(metric, ratio(np.arange(len(whole))), low, high, group, len(whole))


SUITE = Suite(
    "compression",
    "retention of quality at fewer dimensions, in int8 and in bits",
    _read,
    _texts,
    _measure,
    ("crosslingual", "faq", "techdocs"),
)
