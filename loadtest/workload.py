"""Texts for load: every one distinct, of an exact number of tokens, the same for the same seed.

A text is words that are one token each. Its first words spell its number, so that no two texts of one
workload are equal and no two share a prefix worth caching; the rest is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import orjson

from serve_app.engine.demo import demo_checkpoint
from serve_app.engine.tokenizer import Tokenizer

NUMBER_WORDS = 3


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts of `shortest` to `longest` tokens each, the end-of-text token included."""

    name: str
    shortest: int
    longest: int
    seed: int = 0

    def text(self, number: int) -> str:
        """The text of this number."""
        return "".join(self._words_of(number))

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """The texts of these numbers."""
        return [self.text(number) for number in numbers]

    def _words_of(self, number: int) -> list[str]:
        words = one_token_words()
        if not 0 <= number < len(words) ** NUMBER_WORDS:
            raise ValueError(f"number {number} is out of range")
        random = np.random.default_rng((self.seed, self.shortest, self.longest, number))
        count = int(random.integers(self.shortest, self.longest + 1)) - 1
        # The digits of the number, the fastest first: neighbours differ in their first word.
        spelt = [number // len(words) ** digit % len(words) for digit in range(NUMBER_WORDS)]
        drawn = random.integers(0, len(words), size=count - NUMBER_WORDS)
        return [words[i] for i in [*spelt, *drawn]]


SHORT = Workload("short", 8, 12)
MEDIUM = Workload("medium", 34, 38)


@cache
def tokenizer() -> Tokenizer:
    """The demo checkpoint's tokenizer."""
    return Tokenizer.read(demo_checkpoint())


@cache
def one_token_words() -> list[str]:
    """Words that are one token each, with the space before them, so that texts are simply joined words."""
    found = tokenizer()
    every = (found.decode(np.array([i], dtype=np.int32)) for i in range(found.end_of_text_id))
    return sorted({word for word in every if word[:1] == " " and word[1:].isascii() and word[1:].isalpha()})


def body(model: str, texts: Sequence[str], encoding_format: str = "base64") -> bytes:
    """The JSON of one embeddings request; one text goes as a string, as clients send it."""
    value = texts[0] if len(texts) == 1 else list(texts)
    return orjson.dumps({"model": model, "input": value, "encoding_format": encoding_format})
