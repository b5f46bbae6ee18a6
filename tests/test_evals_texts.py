"""The shipped evaluation texts: as many as promised, none twice, labels that hold, and nothing stamped from a template."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

import serve_app
from serve_app.evals.dataset import SHIPPED
from serve_app.evals.suites import SUITES

TRAINING = Path(serve_app.__file__).parent / "training" / "data"
FOLDERS = sorted(path.name for path in SHIPPED.iterdir())
TEXT_COLUMNS = {"text", "text1", "text2", "question", "answer"}
TRAINING_COLUMNS = TEXT_COLUMNS | {"query", "positive", "negative", "zh", "en", "ja", "es"}

WIDTH = 5
"""Characters of an n-gram: about two words of Chinese, one of English."""

MOST = 0.4
"""Jaccard overlap of two texts' n-grams. Texts of one template have 0.6 and more; the closest two here 0.36."""


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def shipped(suite: str, name: str) -> list[dict[str, Any]]:
    return rows(SHIPPED / suite / f"{name}.jsonl")


def texts_in(folder: Path, columns: Iterable[str]) -> list[str]:
    found = [
        row[name] for file in sorted(folder.glob("*.jsonl")) for row in rows(file) for name in columns if name in row
    ]
    return list(dict.fromkeys(found))


@cache
def training_texts() -> list[str]:
    return texts_in(TRAINING, sorted(TRAINING_COLUMNS))


@cache
def shipped_texts(suite: str) -> list[str]:
    return texts_in(SHIPPED / suite, sorted(TEXT_COLUMNS))


@cache
def all_grams() -> dict[str, csr_matrix]:
    """Of each suite's texts, and under "training" of those."""
    names = [*FOLDERS, "training"]
    return dict(zip(names, grams(*map(shipped_texts, FOLDERS), training_texts()), strict=True))


def grams(*collections: list[str]) -> list[csr_matrix]:
    """A row of 0 and 1 for each text, a column for each n-gram of any of them."""
    counter = CountVectorizer(analyzer="char", ngram_range=(WIDTH, WIDTH), binary=True, lowercase=True, dtype=np.int32)
    counter.fit([text for texts in collections for text in texts])
    return [csr_matrix(counter.transform(texts)) for texts in collections]


def closest(ones: csr_matrix, others: csr_matrix, exempt: Iterable[tuple[int, int]] = ()) -> tuple[float, int, int]:
    """The highest Jaccard overlap of a row of `ones` with one of `others`, and the two rows; not that of a row with itself."""
    common = (ones @ others.T).tocoo()
    sizes, other_sizes = (np.asarray(rows.sum(axis=1)).ravel() for rows in (ones, others))
    overlap = common.data / (sizes[common.row] + other_sizes[common.col] - common.data)
    if ones is others:
        overlap = np.where(common.row == common.col, 0.0, overlap)
    for one, other in exempt:
        overlap[((common.row == one) & (common.col == other)) | ((common.row == other) & (common.col == one))] = 0.0
    best = int(overlap.argmax())
    return float(overlap[best]), int(common.row[best]), int(common.col[best])


def test_the_numbers_promised() -> None:
    titles = shipped("crosslingual", "titles")
    assert Counter(row["lang"] for row in titles) == {"zh": 400, "en": 300, "ja": 200, "es": 100}
    assert {row["lang"] for row in shipped("crosslingual", "queries")} == {"zh", "en", "ja", "es"}
    entries = shipped("faq", "entries")
    assert len(entries) >= 300
    assert {row["category"] for row in entries} == {"售前", "售后", "支付", "物流"}
    assert len(shipped("faq", "queries")) >= 200
    cases = shipped("clustering", "cases")
    assert len(cases) >= 250
    assert len({row["cause"] for row in cases}) == 5
    assert min(Counter(row["cause"] for row in cases).values()) >= 50
    pairs = shipped("pairs", "pairs")
    assert len(pairs) >= 300
    assert sum(row["kind"].startswith("hard-") for row in pairs) >= 100
    assert len(shipped("techdocs", "queries")) >= 150


def test_the_readme_counts_what_is_there() -> None:
    readme = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    for suite, file in [
        (folder, path.name) for folder in FOLDERS for path in sorted((SHIPPED / folder).glob("*.jsonl"))
    ]:
        [line] = [
            line for line in readme.splitlines() if f"`{file}`" in line and line.startswith(f"| {suite} |")
        ]  # fmt: skip
        count = len(rows(SHIPPED / suite / file))
        assert f" {count:,} " in line, f"{suite}/{file} has {count}"


@pytest.mark.parametrize("suite", FOLDERS)
def test_ids_and_texts_are_there_once(suite: str) -> None:
    for file in sorted((SHIPPED / suite).glob("*.jsonl")):
        found = rows(file)
        if file.name in ("tasks.jsonl", "topics.jsonl"):
            continue
        assert len({row["id"] for row in found}) == len(found), file
        if suite != "pairs":  # a sentence may stand in two pairs, once with each label
            # The same comment is asked for under each task.
            texts = [(row.get("text") or row["question"], row.get("task")) for row in found]
            assert [text for text, count in Counter(texts).items() if count > 1] == [], file
    if suite == "pairs":
        both = [frozenset((row["text1"], row["text2"])) for row in shipped("pairs", "pairs")]
        assert len(set(both)) == len(both)
        assert all(len(pair) == 2 for pair in both)


def test_no_query_stands_among_what_is_searched() -> None:
    for suite, searched, column in (
        ("crosslingual", "titles", "text"),
        ("faq", "entries", "question"),
        ("techdocs", "documents", "text"),
        ("instruction", "texts", "text"),
    ):
        texts = {row[column] for row in shipped(suite, searched)}
        assert texts.isdisjoint(row["text"] for row in shipped(suite, "queries"))


def test_labels_hold() -> None:
    for name in SUITES:
        assert SUITES[name].load(), "references, empty texts and types are the loader's to check"
    pairs = shipped("pairs", "pairs")
    assert {(row["kind"] in ("paraphrase", "translation"), row["similar"]) for row in pairs} == {
        (True, True),
        (False, False),
    }
    langs = {"zh", "en", "ja", "es"}
    assert all(set(row["lang"].split("-")) <= langs for row in pairs)
    topics = {row["topic"] for row in shipped("crosslingual", "topics")}
    assert topics == {row["topic"] for row in shipped("crosslingual", "titles")}
    assert topics == {row["topic"] for row in shipped("crosslingual", "queries")}
    asked = Counter((row["task"], row["text"]) for row in shipped("instruction", "queries"))
    assert set(asked.values()) == {1}
    kinds = Counter((row["topic"], row["sentiment"]) for row in shipped("instruction", "texts"))
    assert len(set(kinds.values())) == 1, "labels are independent of each other"


@pytest.mark.parametrize("suite", FOLDERS)
def test_no_two_texts_of_a_suite_are_of_one_template(suite: str) -> None:
    texts, found = shipped_texts(suite), all_grams()[suite]
    # The two sentences of a hard pair are alike on purpose: roles, numbers or a negation make the difference.
    pairs = shipped("pairs", "pairs") if suite == "pairs" else []
    both = [(texts.index(row["text1"]), texts.index(row["text2"])) for row in pairs]
    overlap, one, other = closest(found, found, both)
    assert overlap <= MOST, (overlap, texts[one], texts[other])


@pytest.mark.parametrize("suite", FOLDERS)
def test_training_texts_are_others_than_those_of_the_evaluation(suite: str) -> None:
    texts = shipped_texts(suite)
    assert set(texts).isdisjoint(training_texts())
    overlap, one, other = closest(all_grams()[suite], all_grams()["training"])
    assert overlap <= MOST, (overlap, texts[one], training_texts()[other])


@pytest.mark.parametrize(
    "texts",
    [
        [
            f"The central bank of {name} raised its main interest rate by a quarter point"
            for name in ("Norway", "Chile")
        ],
        [f"原告{a}与被告{b}因买卖合同纠纷诉至法院，请求判令被告支付货款三万元。" for a, b in ("张李", "王赵")],
    ],
    ids=["en", "zh"],
)
def test_a_template_would_be_noticed(texts: list[str]) -> None:
    [found] = grams([*texts, "Something else altogether is said here"])
    overlap, one, other = closest(found, found)
    assert overlap > MOST
    assert {one, other} == {0, 1}
