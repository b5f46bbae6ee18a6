"""Where a text can be taken apart without changing its tokens; and that huge texts are cut as if they had been tokenized whole."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from serve_app.cluster.tokenize import JobTokenizer
from serve_app.engine import tokenizer as engine_tokenizer
from serve_app.engine.token_boundary import BOUNDARY, token_boundary
from serve_app.errors import InputTooLongError, InvalidRequestError, TooManyTokensError
from serve_app.types import EmbedJob, Limits, Truncate
from tests.checkpoints import checkpoint
from tests.reference import tokenizer

# What the rules tell apart, and what could cross a place: contractions, marks that combine, line ends in white space, added tokens.
WORDS = "a B ' 's 'LL 'r e 1 23 . , ; : ! ? 。 ， 重 力 か が ァ 한 é ½ ٣ ß - # ( <|im_end|> <|endoftext|> <think> </think> <|"
COMBINING = "e\u0301 \u0301 \u0338 \u3099 \u1161 \u11a8 \u1e9b\u0323 \u017f"
SPACES = [" ", "  ", "\n", "\r\n", "\r", "\t", "\u3000", "\xa0", "\u2028", "\x1c", "\u200b", "\u180e", " \n "]
PIECES = st.sampled_from([*WORDS.split(), *COMBINING.split(" "), *SPACES])
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join)


def apart(text: str, place: int) -> list[int]:
    first, second = tokenizer().encode_batch([text[:place], text[place:]])
    return [*first[:-1].tolist(), *second.tolist()]


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("it's 12'll\n\n  x 'r, e\u0301, \r\n\t\n3a重力。 \n")
def test_taken_apart_at_a_boundary_a_text_has_the_same_tokens(text: str) -> None:
    whole = tokenizer().encode(text).tolist()
    for found in BOUNDARY.finditer(text):
        assert apart(text, found.start()) == whole


def test_elsewhere_it_may_have_others() -> None:
    for text, place in (("word", 2), ("of the", 3), ("x \n \n", 3), ("e\u0301", 1), ("it's", 3), ("!!", 1)):
        assert place not in [found.start() for found in BOUNDARY.finditer(text)]
    assert apart("of the", 3) != tokenizer().encode("of the").tolist()


def test_nfc_makes_no_white_space() -> None:
    """The rules look at characters before NFC, the tokenizer after it."""
    for code in range(0x110000):
        char = chr(code)
        assert unicodedata.normalize("NFC", char).isspace() == char.isspace()


LIMITS = st.integers(1, 12)
SIDES = st.sampled_from(list(Truncate))


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), LIMITS, SIDES, st.integers(1, 20), st.integers(1, 4))
@example(["one two three four five six seven eight nine ten"], 3, Truncate.START, 1, 1)
@example(["重力是一种力。它使物体落下。"], 2, Truncate.END, 1, 1)
@example(["a" * 60, "b c"], 5, Truncate.START, 1, 1)
def test_cut_texts_have_the_tokens_of_whole_ones(
    texts: list[str], limit: int, side: Truncate, least: int, each: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_tokenizer, "LEAST_CHARACTERS", least)
        patch.setattr(engine_tokenizer, "CHARACTERS_FOR_A_TOKEN", each)
        found = tokenizer().encode_to_cut(texts, limit, side)
    for ids, whole in zip(found, tokenizer().encode_batch(texts), strict=True):
        assert (len(ids) > limit) == (len(whole) > limit)
        if side is Truncate.NONE:
            assert len(ids) > limit or ids.tolist() == whole.tolist()
        else:
            assert tokenizer().cut(ids, limit, side).tolist() == tokenizer().cut(whole, limit, side).tolist()


class Counted:
    """Counts the characters that are tokenized."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        encode = engine_tokenizer.Tokenizer.encode_batch

        def counting(own: engine_tokenizer.Tokenizer, texts: Any) -> Any:
            self.characters += sum(map(len, texts))
            return encode(own, texts)

        patch.setattr(engine_tokenizer.Tokenizer, "encode_batch", counting)


HUGE = {
    "words": "the quick brown fox, " * 20_000,
    "Chinese": "重力是一种自然现象，万物因它而落。" * 20_000,
    "base64": "QmVpamluZyBpcyB0aGUgY2FwaXRhbA9f" * 10_000,
    "digits": "0123456789" * 40_000,
    "lines": "}\n{" * 100_000,
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("side", [Truncate.START, Truncate.END])
@pytest.mark.parametrize("prompt", [None, "Instruct: Find it\nQuery:"])
async def test_little_of_a_huge_text_is_tokenized(
    text: str, side: Truncate, prompt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    stage = JobTokenizer(tokenizer(), Limits(max_input_tokens=512), 1280)
    job = EmbedJob("m", texts=[text, "short"], prompt=prompt, truncate=side)
    got = await stage.tokenize(job)
    assert [len(ids) for ids in got] == [512, len(tokenizer().encode((prompt or "") + "short"))]
    assert job.truncated == 1
    assert counted.characters < 40_000
    monkeypatch.undo()
    whole = tokenizer().encode((prompt or "") + text)
    head = tokenizer().encode(prompt)[:-1].tolist() if prompt and side is Truncate.START else []
    kept = whole[:511].tolist() if side is Truncate.END else [*head, *whole[-(512 - len(head)) : -1].tolist()]
    assert got[0].tolist() == [*kept, tokenizer().end_of_text_id]


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("among", [False, True])
async def test_little_of_a_huge_text_is_tokenized_before_it_is_refused(
    text: str, among: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    stage = JobTokenizer(tokenizer(), Limits(max_input_tokens=8192), 1280)
    with pytest.raises(InputTooLongError) as caught:
        await stage.tokenize(EmbedJob("m", texts=["short", text] if among else [text]))
    assert (caught.value.at_least, caught.value.index) == (True, 1 if among else None)
    assert counted.characters < 100_000
    assert 8192 < caught.value.tokens <= len(tokenizer().encode(text))


@pytest.mark.parametrize("side", [Truncate.START, Truncate.END])
async def test_a_huge_word_is_cut_too(side: Truncate) -> None:
    text = "ab" * 50_000
    [got] = await JobTokenizer(tokenizer(), Limits(max_input_tokens=512), 1280).tokenize(
        EmbedJob("m", texts=[text], truncate=side)
    )
    assert got.tolist() == tokenizer().cut(tokenizer().encode(text), 512, side).tolist()


async def test_too_many_tokens_in_all_are_refused_before_all_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    stage = JobTokenizer(tokenizer(), Limits(max_request_tokens=1000), 1280)
    with pytest.raises(TooManyTokensError) as caught:
        await stage.tokenize(EmbedJob("m", texts=["word " * 2000] * 200))
    assert (caught.value.status, caught.value.type, caught.value.param, caught.value.code) == (
        400,
        "max_tokens_per_request",
        "input",
        "max_tokens_per_request",
    )
    tokens = (len(tokenizer().encode("word " * 2000))) * 26
    assert caught.value.message == f"Requested at least {tokens} tokens, max 1000 tokens per request"
    assert counted.characters < 600_000


@pytest.mark.parametrize(
    "change",
    [
        lambda it: setattr(it, "normalizer", normalizers.NFKC()),
        lambda it: setattr(it, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda it: setattr(it, "pre_tokenizer", pre_tokenizers.ByteLevel()),
        lambda it: setattr(
            it,
            "pre_tokenizer",
            pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel()]),
        ),
        lambda it: it.add_tokens([AddedToken("two words")]),
        lambda it: it.add_tokens([AddedToken("<|reserved_12|>")]),
        lambda it: it.add_tokens([AddedToken("<x>", single_word=True)]),
        lambda it: it.add_special_tokens([AddedToken("<x>", rstrip=True)]),
        lambda it: setattr(it, "model", tokenizers.models.WordLevel({"a": 0}, unk_token="a")),
    ],
)
def test_of_any_other_tokenizer_no_boundary_is_known(change: Any) -> None:
    changed = tokenizers.Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    assert token_boundary(changed) is BOUNDARY
    change(changed)
    assert token_boundary(changed) is None


async def test_without_a_boundary_all_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer(), "boundary", None)
    text = "one two " * 5000
    [got] = await JobTokenizer(tokenizer(), Limits(max_input_tokens=16), 1280).tokenize(
        EmbedJob("m", texts=[text], truncate=Truncate.START)
    )
    assert got.tolist() == tokenizer().encode(text)[-16:].tolist()


async def test_a_prompt_without_room_is_refused_for_a_huge_text_too() -> None:
    job = EmbedJob("m", texts=["word " * 10_000], prompt="find it " * 20, truncate=Truncate.END, truncate_to=20)
    with pytest.raises(InvalidRequestError, match="which leaves none for the text"):
        await JobTokenizer(tokenizer(), Limits(), 1280).tokenize(job)
