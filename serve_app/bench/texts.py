"""Texts for load: the same for the same seed and number, no two alike, of about a wished-for length."""

from __future__ import annotations

import random

from serve_app.bench.vocabulary import Language

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def reference(number: int) -> str:
    """The number in 36 digits. Every text begins with one: no cache of whole texts or of common beginnings can serve it."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits += _DIGITS[digit]  # the fastest first: neighbours differ in their first letter
    return digits


def passage(language: Language, length: int, number: int, draw: random.Random) -> str:
    """Sentences of about `length` words (characters in zh and ja), cut to it."""
    parts = [reference(number)]
    size = 1
    while size < length:
        sentence = _fill(language, draw.choice(language.patterns), draw)
        parts.append(sentence)
        size += len(sentence) if language.counts_characters else sentence.count(" ") + 1
    if language.counts_characters:
        return f"{parts[0]} {language.joint.join(parts[1:])[: max(1, length - 1)]}"
    return " ".join(" ".join(parts).split(" ")[:length])


def question(language: Language, number: int, draw: random.Random) -> str:
    """What somebody would type into a search field."""
    return f"{reference(number)} {_fill(language, draw.choice(language.questions), draw)}"


def _fill(language: Language, pattern: str, draw: random.Random) -> str:
    return pattern.format_map({name: draw.choice(words) for name, words in language.blanks.items()})
