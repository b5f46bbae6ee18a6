"""How few tokens a text can have: never more than it has, whatever the text; and what is refused for it, untokenized."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from serve_app.cluster import tokenize
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.engine.token_bound import most_composed, token_bound
from serve_app.errors import InputTooLongError
from serve_app.types import EmbedJob, Limits, Truncate
from tests.checkpoints import checkpoint
from tests.reference import VOCABULARY, tokenizer


def library() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))


ENTRIES = sorted(library().get_vocab(), key=lambda entry: (len(entry), entry))
BYTES = {char: byte for byte, char in zip(range(33, 127), map(chr, range(33, 127)), strict=True)} | {"Ġ": 32, "Ċ": 10}
"""Of the byte-level alphabet what is printable ASCII, the space and the line's end."""
LONGEST = ["".join(chr(BYTES[c]) for c in entry) for entry in ENTRIES[-200:] if all(char in BYTES for char in entry)]
# Long entries, and what NFC composes most: they are what a text of few tokens is made of.
PIECES = st.sampled_from(
    [*LONGEST, "<|endoftext|>", "\u03b1\u0314\u0301\u0345", "\u1100\u1161\u11a8", "\u212b", "  ", "\n"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.text(max_size=5), max_size=20).map("".join) | PIECES.map(lambda piece: piece * 50))
@example("\u03b1\u0314\u0301\u0345" * 100)
@example(" " * 1000)
@example("A" * 1000)
def test_no_text_has_fewer(text: str) -> None:
    bound = tokenizer().bound
    assert bound is not None
    fewest = bound.fewest(text)
    assert fewest <= len(tokenizer().encode(text)) - 1
    assert fewest <= -(-len(text) // bound.shortest)


@pytest.mark.parametrize("entry", LONGEST[-50:])
def test_the_longest_entries_of_the_vocabulary_are_allowed_for(entry: str) -> None:
    bound = tokenizer().bound
    assert bound is not None
    assert len(entry) <= bound.characters
    assert sum(char.isalpha() for char in entry) <= bound.letters


def test_nfc_composes_no_more_than_four() -> None:
    every = (chr(code) for code in range(sys.maxunicode + 1))
    assert most_composed() == max(len(unicodedata.normalize("NFD", char)) for char in every) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda it: setattr(it, "normalizer", normalizers.NFKC()),
        lambda it: setattr(it, "normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])),
        lambda it: setattr(it, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda it: setattr(
            it,
            "pre_tokenizer",
            pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel()]),
        ),
        lambda it: it.add_tokens([AddedToken("<x>", lstrip=True)]),
        lambda it: it.add_special_tokens([AddedToken("<x>", rstrip=True)]),
        lambda it: setattr(it, "model", tokenizers.models.BPE({"a": 0}, [])),
        lambda it: setattr(it, "model", tokenizers.models.WordLevel({"a": 0}, unk_token="a")),
        lambda it: setattr(it.model, "end_of_word_suffix", "</w>"),
    ],
)
def test_a_tokenizer_that_may_drop_characters_has_no_bound(change: Any) -> None:
    changed = library()
    assert token_bound(changed) is not None
    change(changed)
    assert token_bound(changed) is None


@pytest.mark.parametrize("text", ["a" * 20_000, " " * 20_000, "\u00e9" * 40_000, "a " * 20_000])
@pytest.mark.parametrize("among", [False, True])
async def test_a_hopeless_text_is_refused_untokenized(text: str, among: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = tokenizer().bound
    assert bound is not None
    fewest = bound.fewest(text) + 1
    stage = JobTokenizer(tokenizer(), Limits(max_input_tokens=400), VOCABULARY)
    monkeypatch.setattr(tokenize.JobTokenizer, "_in_parts", None)
    with pytest.raises(InputTooLongError) as caught:
        await stage.tokenize(EmbedJob("m", texts=["b", text] if among else [text]))
    error = caught.value
    assert (error.status, error.type, error.param, error.code) == (400, "invalid_request_error", "input", None)
    place = " (input index 1)" if among else ""
    assert error.message == f"Input length at least {fewest} exceeds maximum allowed length 400{place}"


async def test_a_long_text_that_fits_is_not_refused() -> None:
    bound = tokenizer().bound
    assert bound is not None
    longest = max(LONGEST, key=len)
    text = longest * 1000
    whole = tokenizer().encode(text)
    stage = JobTokenizer(tokenizer(), Limits(max_input_tokens=len(whole)), VOCABULARY)
    [got] = await stage.tokenize(EmbedJob("m", texts=[text]))
    assert got.tolist() == whole.tolist()


async def test_what_is_to_be_cut_is_not_refused() -> None:
    stage = JobTokenizer(tokenizer(), Limits(max_input_tokens=16), VOCABULARY)
    [got] = await stage.tokenize(EmbedJob("m", texts=["a" * 20_000], truncate=Truncate.END))
    assert len(got) == 16
