"""Workloads: what one request carries, as a function of the seed and its number.

Lengths follow from the seed and the number alone, words also from `salt`: two targets with salts of their own get requests of the same
lengths, in the same order, without a text in common that a cache could answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.bench.texts import passage, question
from serve_app.bench.vocabulary import ENGLISH, INSTRUCTIONS, LANGUAGES, Language

BULK_INPUTS = 2048
SALTS = 64  # how many salts there may be


@dataclass(frozen=True)
class Content:
    """What one request asks vectors of; `query` if these are searches and not documents."""

    texts: list[str]
    query: bool = False

    @property
    def characters(self) -> int:
        """Of all its texts together."""
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class Workload:
    """`make` gets what decides lengths, what decides words, and a number no other text has."""

    name: str
    about: str
    make: Callable[[random.Random, random.Random, int], Content]

    def content(self, number: int, seed: int = 0, salt: int = 0) -> Content:
        """Of the request of this number."""
        if not 0 <= salt < SALTS:
            raise ValueError(f"salt {salt} is out of range")
        lengths = random.Random(f"{self.name} {seed} {number}")
        return self.make(lengths, random.Random(f"{self.name} {seed} {number} {salt}"), number * SALTS + salt)


def _log_normal(draw: random.Random, median: float, sigma: float, shortest: int, longest: int) -> int:
    return min(longest, max(shortest, round(median * math.exp(sigma * draw.gauss(0.0, 1.0)))))


def _query(lengths: random.Random, words: random.Random, number: int) -> Content:
    return Content([question(ENGLISH, number, words)], query=True)


def _passage(lengths: random.Random, words: random.Random, number: int) -> Content:
    return Content([passage(ENGLISH, lengths.randint(50, 70), number, words)])


def _mix(lengths: random.Random, words: random.Random, number: int) -> Content:
    return Content([passage(ENGLISH, _log_normal(lengths, 70, 0.9, 3, 1600), number, words)])


def _long(lengths: random.Random, words: random.Random, number: int) -> Content:
    return Content([passage(ENGLISH, lengths.randint(1500, 2500), number, words)])


def _bulk(lengths: random.Random, words: random.Random, number: int) -> Content:
    sizes = [_log_normal(lengths, 24, 0.5, 5, 80) for _ in range(BULK_INPUTS)]
    return Content([passage(ENGLISH, size, number * BULK_INPUTS + i, words) for i, size in enumerate(sizes)])


def _instruction(lengths: random.Random, words: random.Random, number: int) -> Content:
    instruction = lengths.choice(INSTRUCTIONS)
    return Content([f"Instruct: {instruction}\nQuery:{question(ENGLISH, number, words)}"], query=True)


def _in_language(language: Language) -> Callable[[random.Random, random.Random, int], Content]:
    # A word is about one and a half to two characters in zh and two to three in ja.
    median = {"zh": 110, "ja": 150}.get(language.code, 70)

    def make(lengths: random.Random, words: random.Random, number: int) -> Content:
        return Content([passage(language, _log_normal(lengths, median, 0.6, 8, 10 * median), number, words)])

    return make


def _languages(lengths: random.Random, words: random.Random, number: int) -> Content:
    return _in_language(LANGUAGES[lengths.choice(sorted(LANGUAGES))])(lengths, words, number)


_NAMES = {"en": "English", "es": "Spanish", "zh": "Chinese", "ja": "Japanese"}

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("query", "one English search query of 5 to 20 words a request", _query),
        Workload("passage", "one English passage of 50 to 70 words a request", _passage),
        Workload(
            "mix", "one English text a request, lengths log-normal: median 70 words, σ 0.9, 3 to 1,600 words", _mix
        ),
        Workload("long", "one English document of 1,500 to 2,500 words a request", _long),
        Workload(
            "bulk", "2,048 English texts a request, lengths log-normal: median 24 words, σ 0.5, 5 to 80 words", _bulk
        ),
        Workload(
            "instruction", "one search query a request behind one of four instructions of 41 to 44 words", _instruction
        ),
        *(
            Workload(
                code,
                f"one {_NAMES[code]} text a request, lengths log-normal: median "
                f"{'110 characters' if code == 'zh' else '150 characters' if code == 'ja' else '70 words'}, σ 0.6",
                _in_language(language),
            )
            for code, language in LANGUAGES.items()
        ),
        Workload(
            "languages",
            "one text a request in English, Spanish, Chinese or Japanese by turns, lengths as above",
            _languages,
        ),
    )
}
