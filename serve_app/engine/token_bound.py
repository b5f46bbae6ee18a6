"""How many tokens a text has at least, told from its characters, so that far too long ones are refused before they are tokenized."""

from __future__ import annotations

import json
import string
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tokenizers

_NO_LETTERS = {code: None for code in range(0x180) if chr(code) not in string.ascii_letters}
_CASE = 0x20  # the bit that the upper case of an ASCII letter lacks


@dataclass(frozen=True, slots=True)
class TokenBound:
    """A token stands for at most `characters` characters of a text, and at most `letters` of a to z and A to Z in ASCII."""

    characters: int
    letters: int
    composed: int
    """Into how few characters at the worst the normaliser composes others: that many become one."""

    def fewest(self, text: str) -> int:
        """A number of tokens that `text` surely has, `<|endoftext|>` not counted."""
        if not text.isascii():
            # How many letters lose themselves in accents isn't worth knowing.
            return _ceil(len(text), self.characters * self.composed)
        codes = np.frombuffer(text.encode(), np.uint8)
        # As unsigned bytes, what comes before the letters wraps around to behind them.
        letters = np.count_nonzero((codes | _CASE) - np.uint8(ord("a")) < 26)
        return max(_ceil(len(text), self.characters), _ceil(int(letters), self.letters))

    @property
    def shortest(self) -> int:
        """`fewest` is at most a text's length by this."""
        return min(self.characters, self.letters)


def token_bound(tokenizer: tokenizers.Tokenizer) -> TokenBound | None:
    """The bound for a byte-level BPE tokenizer, from its vocabulary; None for one that may drop characters, or put any number of
    them into one token.

    A vocabulary entry has one character for each byte, so it covers as many characters of the text or fewer.
    """
    model, added = tokenizer.model, tokenizer.get_added_tokens_decoder().values()
    composed = _composed(_steps(tokenizer.normalizer, "normalizers"))
    split = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    if (
        composed is None
        or not isinstance(model, tokenizers.models.BPE)
        or model.continuing_subword_prefix
        or model.end_of_word_suffix
        or not _keeps_all(split)
        or any(token.lstrip or token.rstrip for token in added)
    ):
        return None
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if any(byte not in vocabulary for byte in tokenizers.pre_tokenizers.ByteLevel.alphabet()):
        return None
    entries = [*vocabulary, *(token.content for token in added)]
    letters = _most(entries, lambda entry: len(entry.translate(_NO_LETTERS)))
    return TokenBound(_most(entries, len), letters, composed)


def _ceil(number: int, by: int) -> int:
    return -(-number // by)


def _steps(part: Any, inner: str) -> list[dict[str, object]]:
    """The steps of a normalizer or pre-tokenizer, whose state the library gives as JSON."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return list(state[inner]) if state["type"] == "Sequence" else [state]


def _composed(steps: list[dict[str, object]]) -> int | None:
    if not steps:
        return 1
    return most_composed() if all(step["type"] == "NFC" for step in steps) else None


def _keeps_all(steps: list[dict[str, object]]) -> bool:
    kinds = [step["type"] for step in steps]
    return kinds[-1:] == ["ByteLevel"] and all(
        step["type"] == "ByteLevel" or (step["type"] == "Split" and step["behavior"] == "Isolated") for step in steps
    )


def _most(entries: Iterable[str], size: Callable[[str], int]) -> int:
    most = 1
    for entry in sorted(entries, key=len, reverse=True):
        if len(entry) <= most:
            break
        most = max(most, size(entry))
    return most


@cache
def most_composed() -> int:
    """How many characters NFC makes one of, at most: it takes the parts of each character apart, and that many together again.

    Only characters below U+30000 have parts (CJK compatibility characters have one); 4 since Unicode 1.1, and versions after this
    Python's have added none with more.
    """
    return max(4, *(len(unicodedata.normalize("NFD", chr(code))) for code in range(0xA0, 0x30000)))
