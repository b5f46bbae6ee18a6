"""The workloads: seeded, without repetition, of the lengths and in the languages they say."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from serve_app.bench.texts import reference
from serve_app.bench.vocabulary import LANGUAGES
from serve_app.bench.workloads import BULK_INPUTS, SALTS, WORKLOADS

SINGLE = [name for name in WORKLOADS if name != "bulk"]


def lengths(name: str, count: int = 400) -> list[int]:
    texts = [WORKLOADS[name].content(number).texts[0] for number in range(count)]
    return [len(text) if name in ("zh", "ja") else len(text.split()) for text in texts]


@pytest.mark.parametrize("name", SINGLE)
def test_texts_follow_from_seed_and_number_and_never_repeat(name: str) -> None:
    workload = WORKLOADS[name]
    few = 30 if name == "long" else 300
    texts = [workload.content(number, salt=salt).texts[0] for number in range(few) for salt in (0, 1, SALTS - 1)]
    assert len(set(texts)) == len(texts)
    assert workload.content(7, 3, 1) == workload.content(7, 3, 1)
    assert workload.content(7, 3, 1) != workload.content(7, 4, 1)


@pytest.mark.parametrize("name", ["passage", "mix", "long", "en", "es", "zh", "ja"])
def test_another_salt_changes_words_but_no_length(name: str) -> None:
    def size(number: int, salt: int) -> int:
        text = WORKLOADS[name].content(number, salt=salt).texts[0]
        marker, _, rest = text.partition(" ")
        assert marker == reference(number * SALTS + salt)
        return len(rest) if name in ("zh", "ja") else len(rest.split(" "))

    for number in range(20):
        assert size(number, 0) == size(number, 1)


def test_lengths_are_those_the_reports_name() -> None:
    assert (min(lengths("passage")), max(lengths("passage"))) == (50, 70)
    assert min(lengths("long", 40)) >= 1500
    assert max(lengths("long", 40)) <= 2500
    assert (min(lengths("query")), max(lengths("query"))) >= (5, 12)
    assert max(lengths("query")) <= 20
    mix = lengths("mix", 4000)
    assert float(np.median(mix)) == pytest.approx(70, rel=0.1)
    assert float(np.std(np.log(mix))) == pytest.approx(0.9, rel=0.1)
    assert min(mix) >= 3
    assert max(mix) <= 1600
    for name, median in (("en", 70), ("es", 70), ("zh", 110), ("ja", 150)):
        assert float(np.median(lengths(name, 1500))) == pytest.approx(median, rel=0.15)


def test_bulk_is_one_request_of_many_distinct_texts() -> None:
    first, second = WORKLOADS["bulk"].content(0), WORKLOADS["bulk"].content(1)
    assert len(first.texts) == BULK_INPUTS == 2048
    assert len({*first.texts, *second.texts}) == 2 * BULK_INPUTS


def test_queries_behind_instructions_share_nothing_but_the_instruction() -> None:
    contents = [WORKLOADS["instruction"].content(number) for number in range(50)]
    assert all(content.query for content in contents)
    prefixes = {content.texts[0].split("\nQuery:")[0] for content in contents}
    assert len(prefixes) == 4
    assert all(prefix.startswith("Instruct: Given ") for prefix in prefixes)
    assert not WORKLOADS["mix"].content(0).query


SCRIPTS = {
    "en": r"[\x00-\x7f]+",
    "es": r"[\x00-\x7fáéíóúñü¿¡]+",
    "zh": r"[0-9a-z]+ [\u4e00-\u9fff，。？]+",
    "ja": r"[0-9a-z]+ [\u3040-\u30ff\u4e00-\u9fff、。ー]+",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_languages_are_written_in_their_scripts(code: str) -> None:
    texts = [WORKLOADS[code].content(number).texts[0].lower() for number in range(100)]
    assert all(re.fullmatch(SCRIPTS[code], text) for text in texts)
    if code == "es":
        assert any(set("áéíóúñ¿") & set(text) for text in texts)
    if code == "ja":
        assert all(re.search(r"[\u3040-\u30ff]", text) for text in texts)


def test_all_languages_come_by_turns() -> None:
    texts = [WORKLOADS["languages"].content(number).texts[0] for number in range(60)]
    assert sum(bool(re.search(r"[\u3040-\u30ff]", text)) for text in texts) > 5
    assert sum(text.isascii() for text in texts) > 5


def test_references_are_distinct_and_neighbours_differ_in_their_first_letter() -> None:
    found = [reference(number) for number in range(5000)]
    assert len(set(found)) == 5000
    assert all(one[0] != two[0] for one, two in itertools.pairwise(found))


def test_a_salt_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="salt"):
        WORKLOADS["mix"].content(0, salt=SALTS)
