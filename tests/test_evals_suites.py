"""Each suite on small data whose figures are known, and on the shipped texts with a cheap encoder."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from serve_app.evals.encoder import Encoder, Role, Vectors
from serve_app.evals.result import SuiteResult
from serve_app.evals.statistics import compare
from serve_app.evals.suites import SUITES


@dataclass
class Known:
    """An encoder whose vectors are given by text, or by instruction and text."""

    vectors: Mapping[Any, Sequence[float]]
    name: str = "known"
    asked: list[tuple[int, Role, str | None]] = field(default_factory=list)

    def prepare(self, texts: Sequence[str]) -> None:
        pass

    def encode(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        self.asked.append((len(texts), role, instruction))
        rows = [self.vectors.get((instruction, text), self.vectors.get(text, (1.0,))) for text in texts]
        found = np.array(rows, dtype=np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


class Letters:
    """Counts pairs of letters, hashed: a cheap encoder that finds what shares words. `share` of a text is read."""

    def __init__(self, name: str = "letters", size: int = 512, share: float = 1.0) -> None:
        self.name, self.size, self.share = name, size, share

    def prepare(self, texts: Sequence[str]) -> None:
        pass

    def encode(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        found = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            read = text[: max(2, int(len(text) * self.share))]
            for at in range(len(read) - 1):
                row[zlib.crc32(read[at : at + 2].encode()) % self.size] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def measured(suite: str, folder: Path | None, encoder: Encoder, **files: list[dict[str, Any]]) -> SuiteResult:
    for name, rows in files.items():
        assert folder is not None
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return SUITES[suite].measure(SUITES[suite].load(folder), encoder, seed=4)


def value(result: SuiteResult, metric: str, group: str = "") -> float:
    [figure] = [one for one in result.figures if (one.metric, one.group) == (metric, group)]
    return figure.value


@cache
def shipped(suite: str) -> SuiteResult:
    return measured(suite, None, Letters())


@pytest.mark.parametrize("suite", SUITES)
def test_shipped_texts_give_sound_results_that_can_be_stored(suite: str) -> None:
    result = shipped(suite)
    assert (result.suite, result.target) == (suite, "letters")
    assert msgspec.json.decode(msgspec.json.encode(result), type=SuiteResult) == result, "no NaN, which JSON lacks"
    assert value(result, result.headline) > 0
    assert len({(figure.metric, figure.group) for figure in result.figures}) == len(result.figures)
    for figure in result.figures:
        assert np.isfinite(figure.value)
        if figure.low is not None and figure.high is not None and figure.metric != "language bias":
            assert figure.low <= figure.value <= figure.high, figure
        if figure.samples is not None:
            samples = result.samples[figure.samples]
            assert np.mean(samples.values) == pytest.approx(figure.value, abs=1e-12), figure
            assert len(set(samples.ids)) == len(samples.ids) == len(samples.values) == figure.n
    for plot in result.plots:
        assert plot.kind in ("heatmap", "lines", "scatter", "histogram")
        assert all(len(row) == len(plot.columns) for row in plot.values)
        assert len(plot.values) == len(plot.rows)
        assert all(plot.kind == "histogram" or len(line) == len(plot.x) for line in plot.series.values())
        assert len(plot.points) == len(plot.labels)
    assert len(msgspec.json.encode(result)) < 200_000


@pytest.mark.parametrize("suite", SUITES)
def test_the_same_vectors_and_seed_give_the_same_digits(suite: str) -> None:
    again = measured(suite, None, Letters())
    assert msgspec.json.encode(again) == msgspec.json.encode(shipped(suite))


@pytest.mark.parametrize("suite", ["faq", "crosslingual"])
def test_an_encoder_that_reads_less_is_found_to_be_worse(suite: str) -> None:
    worse = measured(suite, None, Letters("half", share=0.4))
    result = shipped(suite)
    [found] = [
        one for one in compare(result, worse, seed=4) if one.metric == result.headline and not one.group
    ]  # fmt: skip
    assert found.significant
    assert found.difference > 0


@pytest.mark.parametrize("suite", SUITES)
def test_texts_are_all_that_is_encoded(suite: str) -> None:
    data = SUITES[suite].load()
    asked: set[str] = set()

    class Noting(Letters):
        def encode(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
            asked.update(texts)
            return super().encode(texts, role, instruction)

    SUITES[suite].measure(data, Noting(), seed=0)
    texts = SUITES[suite].texts(data)
    assert set(texts) == asked
    assert len(set(texts)) == len(texts)


def test_pairs(tmp_path: Path) -> None:
    cosines = {
        "p1": (0.9, True, "same"),
        "p2": (0.5, True, "same"),
        "p3": (0.7, False, "not"),
        "p4": (0.1, False, "far"),
    }
    rows = [
        {"id": i, "text1": "x", "text2": i, "similar": same, "kind": kind, "lang": "de"}
        for i, (_, same, kind) in cosines.items()
    ]
    encoder = Known({"x": (1, 0), **{i: (c, (1 - c * c) ** 0.5) for i, (c, _, _) in cosines.items()}})
    result = measured("pairs", tmp_path, encoder, pairs=rows)
    assert value(result, "ROC-AUC") == value(result, "ROC-AUC", "de") == 0.75
    assert value(result, "ROC-AUC", "not") == 0.5
    assert value(result, "ROC-AUC", "far") == 1.0
    assert value(result, "AP") == pytest.approx((1 + 2 / 3) / 2)
    assert value(result, "best F1") == pytest.approx(0.8)
    assert value(result, "threshold of best F1") == pytest.approx(0.5)
    assert {(role, said) for _, role, said in encoder.asked} == {
        (Role.SIMILARITY, "Retrieve semantically similar text")
    }


@pytest.mark.parametrize(("first", "second", "said"), [(0.9, 0.1, False), (0.1, 0.9, True)])
def test_an_area_below_a_half_is_explained(first: float, second: float, said: bool, tmp_path: Path) -> None:
    encoder = Known({"x": (1, 0), "yes": (first, 1 - first), "no": (second, 1 - second)})
    rows = [{"id": text, "text1": "x", "text2": text, "similar": text == "yes"} for text in ("yes", "no")]
    result = measured("pairs", tmp_path, encoder, pairs=rows)
    assert any(note.startswith("ROC-AUC below 0.5") for note in result.notes) is said


def test_areas_of_pairs_have_intervals_like_those_of_resampled_pairs() -> None:
    result = shipped("pairs")
    [figure] = [one for one in result.figures if one.metric == "ROC-AUC" and not one.group]
    [histogram] = [plot for plot in result.plots if plot.kind == "histogram"]
    above, below = (np.array(histogram.series[name]) for name in ("similar", "dissimilar"))
    draw = np.random.default_rng(0)
    labels = np.repeat([1, 0], [len(above), len(below)])
    areas = [
        roc_auc_score(labels, np.concatenate([draw.choice(s, len(s)) for s in (above, below)])) for _ in range(400)
    ]
    assert (figure.low, figure.high) == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.012)


def test_faq_and_techdocs(tmp_path: Path) -> None:
    entries = [{"id": f"e{n}", "question": f"e{n}", "category": "ab"[n % 2]} for n in range(4)]
    queries = [{"id": f"q{n}", "text": f"q{n}", "entry": entry} for n, entry in enumerate(("e0", "e1", "e3"))]
    places = {"e0": (1, 0, 0, 0), "e1": (0, 1, 0, 0), "e2": (0, 0, 1, 0), "e3": (0, 0, 0, 1)}
    known = Known({**places, "q0": (9, 2, 1, 0), "q1": (9, 2, 1, 0), "q2": (9, 2, 1, 0)})
    result = measured("faq", tmp_path, known, entries=entries, queries=queries)
    assert (value(result, "top-1"), value(result, "top-3")) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert value(result, "MRR") == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert (value(result, "MRR", "a"), value(result, "MRR", "b")) == (1.0, pytest.approx((1 / 2 + 1 / 4) / 2))
    assert [role for _, role, _ in known.asked] == [Role.DOCUMENT, Role.QUERY]
    assert known.asked[0][2] is None, "documents take no instruction"

    documents = [{"id": name, "text": name} for name in places]
    asked = [{"id": row["id"], "text": row["text"], "document": row["entry"]} for row in queries]
    result = measured("techdocs", tmp_path, known, documents=documents, queries=asked)
    assert value(result, "MRR") == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)


def test_crosslingual(tmp_path: Path) -> None:
    # Three titles on rail and two on sea, in de and fr; the encoder puts whatever is in de nearer to the query.
    titles = [
        {"id": "1", "lang": "de", "topic": "rail", "text": "de rail"},
        {"id": "2", "lang": "de", "topic": "sea", "text": "de sea"},
        {"id": "3", "lang": "fr", "topic": "rail", "text": "fr rail"},
        {"id": "4", "lang": "fr", "topic": "sea", "text": "fr sea"},
        {"id": "5", "lang": "fr", "topic": "rail", "text": "fr rail too"},
    ]
    queries = [{"id": "q", "lang": "de", "topic": "rail", "text": "q"}]
    known = Known(
        {
            "q": (5, 4, 3, 2, 1),
            "de rail": (1, 0, 0, 0, 0),
            "de sea": (0, 1, 0, 0, 0),
            "fr rail": (0, 0, 1, 0, 0),
            "fr sea": (0, 0, 0, 1, 0),
            "fr rail too": (0, 0, 0, 0, 1),
        }
    )
    result = measured("crosslingual", tmp_path, known, titles=titles, queries=queries)
    discount = [1 / np.log2(rank + 1) for rank in range(1, 6)]
    whole = (discount[0] + discount[2] + discount[4]) / sum(discount[:3])
    assert value(result, "nDCG@10") == value(result, "nDCG@10", "de→all") == pytest.approx(whole)
    assert value(result, "nDCG@10", "de→de") == 1.0
    assert value(result, "nDCG@10", "de→fr") == pytest.approx((discount[0] + discount[2]) / sum(discount[:2]))
    pooled = (discount[2] + discount[4]) / sum(discount[:2])
    assert value(result, "nDCG@10", "de→fr in the pool") == pytest.approx(pooled)
    assert value(result, "precision@5", "de→fr in the pool") == pytest.approx(2 / 5)
    assert value(result, "precision@5") == pytest.approx(3 / 5)
    assert value(result, "share of the best 10", "de→fr in the pool") == pytest.approx(3 / 5)
    assert value(result, "share of the relevant", "de→fr in the pool") == pytest.approx(2 / 3)
    assert value(result, "language bias") == pytest.approx(2 / 3 - 3 / 5)
    assert all(figure.low is None for figure in result.figures), "one query says nothing about others"


def test_language_bias_is_that_of_the_average_and_not_of_chance(tmp_path: Path) -> None:
    """Ten of twenty titles at random: each query's own mix is off, all together aren't."""
    draw = np.random.default_rng(0)
    titles = [{"id": f"t{n}", "lang": "de" if n % 2 else "fr", "topic": "rail", "text": f"t{n}"} for n in range(20)]
    queries = [{"id": f"q{n}", "lang": "de", "topic": "rail", "text": f"q{n}"} for n in range(200)]
    vectors = {row["text"]: draw.normal(size=30) for row in (*titles, *queries)}
    fair = value(measured("crosslingual", tmp_path, Known(vectors), titles=titles, queries=queries), "language bias")
    assert fair < 0.12
    for row in (*queries, *(title for title in titles if title["lang"] == "de")):
        vectors[row["text"]] = vectors[row["text"]] + 3  # German titles are like any query
    biased = value(measured("crosslingual", tmp_path, Known(vectors), titles=titles, queries=queries), "language bias")
    assert biased > fair + 0.2


def test_clustering(tmp_path: Path) -> None:
    cases = [{"id": f"c{n}", "cause": "ab"[n % 2], "text": f"c{n}"} for n in range(20)]
    apart = Known({f"c{n}": ((1, 0.01 * n) if n % 2 else (-1, 0.01 * n)) for n in range(20)})
    result = measured("clustering", tmp_path, apart, cases=cases)
    for metric in ("purity", "V-measure", "ARI", "stability"):
        assert value(result, metric) == pytest.approx(1.0)
    assert result.plots[0].values == [[10.0, 0.0], [0.0, 10.0]]
    # Clear clusters that have nothing to do with the causes: stable, and of no use.
    across = Known({f"c{n}": ((1, 0.01 * n) if n < 10 else (-1, 0.01 * n)) for n in range(20)})
    result = measured("clustering", tmp_path, across, cases=cases)
    assert value(result, "stability") == pytest.approx(1.0)
    assert value(result, "purity") == pytest.approx(0.5)
    assert value(result, "V-measure") == pytest.approx(0.0, abs=1e-9)
    assert value(result, "ARI") < 0.01
    # All vectors the same.
    result = measured("clustering", tmp_path, Known({f"c{n}": (1.0, 0.0) for n in range(20)}), cases=cases)
    assert value(result, "purity") == pytest.approx(0.5)


TASKS = [
    {"task": "topic", "instruction": "topic!", "wrong_instruction": "mood!"},
    {"task": "sentiment", "instruction": "mood!", "wrong_instruction": "topic!"},
]


def test_instruction(tmp_path: Path) -> None:
    kinds = [(topic, mood) for topic in ("hotel", "train") for mood in ("good", "bad")]
    texts = [{"id": f"t{n}", "text": f"t{n}", "topic": t, "sentiment": m} for n, (t, m) in enumerate(kinds * 6)]
    queries = [
        {"id": f"{task}{n}", "text": f"q{n}", "task": task, "label": label[task == "sentiment"]}
        for task in ("topic", "sentiment")
        for n, label in enumerate(kinds)
    ]
    vectors: dict[Any, Sequence[float]] = {}
    for n, (topic, mood) in enumerate(kinds * 6):
        vectors[f"t{n}"] = (1 if topic == "hotel" else -1, 1 if mood == "good" else -1)
    for n, (topic, mood) in enumerate(kinds):
        x, y = 1 if topic == "hotel" else -1, 1 if mood == "good" else -1
        vectors |= {("topic!", f"q{n}"): (x, 0), ("mood!", f"q{n}"): (0, y), f"q{n}": (x, y)}
    result = measured("instruction", tmp_path, Known(vectors), texts=texts, tasks=TASKS, queries=queries)
    assert value(result, "nDCG@10") == value(result, "nDCG@10", "task topic") == pytest.approx(1.0)
    assert value(result, "nDCG@10", "wrong instruction") < 0.7
    gain = value(result, "nDCG@10 gained", "over the wrong instruction")
    assert gain == pytest.approx(1 - value(result, "nDCG@10", "wrong instruction"))
    assert any(note.startswith("The right instruction helps over the wrong instruction: +") for note in result.notes)
    [heatmap] = result.plots
    at = {name: number for number, name in enumerate(heatmap.rows)}
    assert heatmap.values[at["topic"]][at["topic"]] == pytest.approx(1.0)
    assert heatmap.values[at["topic"]][at["sentiment"]] == pytest.approx(0.0, abs=1e-6)
    assert heatmap.values[at["none"]][at["topic"]] == pytest.approx(0.5**0.5, abs=1e-6)


def test_an_encoder_that_takes_no_instructions_gains_nothing_and_that_is_said() -> None:
    result = shipped("instruction")
    assert value(result, "nDCG@10 gained", "over the wrong instruction") == 0.0
    said = "The right instruction over the wrong instruction: +0.000 nDCG@10, from +0.000 to +0.000; not significant."
    assert said in result.notes


def test_one_task_and_one_query_are_enough(tmp_path: Path) -> None:
    texts = [{"id": "t1", "text": "aa", "topic": "hotel"}, {"id": "t2", "text": "bb", "topic": "train"}]
    queries = [{"id": "q1", "text": "aa", "task": "topic", "label": "hotel"}]
    result = measured("instruction", tmp_path, Letters(), texts=texts, tasks=TASKS[:1], queries=queries)
    assert value(result, "nDCG@10") == 1.0
    assert "Too few queries to say whether an instruction helps over no instruction." in result.notes


def test_compression(tmp_path: Path) -> None:
    # The first 32 dimensions know nothing, the whole knows all.
    draw = np.random.default_rng(0)
    documents = [{"id": f"d{n}", "text": f"d{n}"} for n in range(60)]
    queries = [{"id": f"q{n}", "text": f"q{n}", "document": f"d{n}"} for n in range(60)]
    vectors: dict[Any, Any] = {}
    for n in range(60):
        meaning = draw.normal(size=32)
        for name in ("d", "q"):
            vectors[f"{name}{n}"] = np.concatenate([draw.normal(size=32), 3 * meaning + draw.normal(size=32)])
    result = measured("compression", tmp_path, Known(vectors), documents=documents, queries=queries)
    assert value(result, "nDCG@10 uncompressed") > 0.95
    assert value(result, "nDCG@10 retention", "64 dims float32") == 1.0
    assert value(result, "nDCG@10 retention", "64 dims int8") == pytest.approx(1.0, abs=0.01)
    bits = value(result, "nDCG@10 retention", "64 dims binary")
    rescored = value(result, "nDCG@10 retention", "64 dims binary + rescoring")
    assert bits < rescored <= 1.0
    assert value(result, result.headline) == rescored
    assert value(result, "nDCG@10 retention", "32 dims float32") < 0.5
    sizes = {figure.group: figure.value for figure in result.figures if figure.metric == "size"}
    assert (sizes["64 dims float32"], sizes["64 dims int8"], sizes["32 dims binary"]) == (256, 64, 4)


@pytest.mark.parametrize("size", [5, 33, 129])
def test_compression_of_lengths_that_fill_no_whole_bytes(tmp_path: Path, size: int) -> None:
    documents = [{"id": f"d{n}", "text": f"text {n}{n}"} for n in range(8)]
    queries = [{"id": f"q{n}", "text": f"text {n}{n}", "document": f"d{n}"} for n in range(8)]
    result = measured("compression", tmp_path, Letters(size=size), documents=documents, queries=queries)
    assert value(result, "nDCG@10 retention", f"{size} dims float32") == 1.0
    assert value(result, "size", f"{size} dims binary") == -(-size // 8)


def test_compression_where_nothing_is_found(tmp_path: Path) -> None:
    documents = [{"id": f"d{n}", "text": f"d{n}"} for n in range(30)]
    queries = [{"id": "q", "text": "q", "document": "d29"}]
    vectors = {f"d{n}": (1.0, n / 100) for n in range(30)} | {"q": (1.0, 0.0)}
    result = measured("compression", tmp_path, Known(vectors), documents=documents, queries=queries)
    assert value(result, result.headline) == 0.0
    assert any("nothing to retain" in note for note in result.notes)
