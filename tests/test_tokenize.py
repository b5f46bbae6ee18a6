"""The tokenize stage: what each kind of input becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve_app.cluster.tokenize import JobTokenizer, estimated_tokens
from serve_app.errors import CheckpointError, InvalidRequestError, TooManyTokensError
from serve_app.types import EmbedJob, Limits, Truncate
from tests.reference import tokenizer

VOCABULARY = 1280


def stage(token_ids: str = "model", **limits: int) -> JobTokenizer:
    return JobTokenizer(tokenizer(), Limits(**limits), VOCABULARY, token_ids)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


async def test_texts_behind_a_prompt() -> None:
    [got] = await stage().tokenize(EmbedJob("m", texts=["what?"], prompt="Instruct: Find it\nQuery:"))
    assert got.tolist() == tokenizer().encode("Instruct: Find it\nQuery:what?").tolist()


async def test_large_texts_go_through_a_thread_with_the_same_result() -> None:
    texts = ["word " * 2000, "b"]
    got = await stage().tokenize(EmbedJob("m", texts=texts))
    assert [row.tolist() for row in got] == [row.tolist() for row in tokenizer().encode_batch(texts)]


@pytest.mark.parametrize("side", [Truncate.START, Truncate.END])
async def test_a_prompt_stays_whole_when_its_text_is_cut(side: Truncate) -> None:
    prompt, text = "Instruct: Find it\nQuery:", "one two three four five six seven eight nine ten"
    head = tokenizer().encode(prompt)[:-1].tolist()
    whole = tokenizer().encode(prompt + text).tolist()
    limit = len(head) + 4
    job = EmbedJob("m", texts=[text, "a"], prompt=prompt, truncate=side, truncate_to=limit)
    cut, short = [row.tolist() for row in await stage().tokenize(job)]
    assert cut == (head + whole[-4:] if side is Truncate.START else whole[: limit - 1] + whole[-1:])
    assert short == tokenizer().encode(prompt + "a").tolist()
    assert job.truncated == 1


@pytest.mark.parametrize("side", [Truncate.START, Truncate.END])
async def test_a_prompt_that_leaves_no_room_is_refused(side: Truncate) -> None:
    prompt = "Instruct: Find it\nQuery:"
    taken = len(tokenizer().encode(prompt)) - 1
    job = EmbedJob("m", texts=["some text here"], prompt=prompt, truncate=side, truncate_to=taken + 1)
    with pytest.raises(InvalidRequestError) as caught:
        await stage().tokenize(job)
    assert caught.value.param == "input"
    assert caught.value.message == (
        f"The prompt takes {taken} of the {taken + 1} tokens that an input may have, which leaves none for the text. "
        "Send a shorter instruction, or allow more tokens."
    )


async def test_a_prompt_that_is_too_much_by_itself_is_refused_before_the_texts_are_tokenized() -> None:
    prompt = "find it " * 500
    tokens = len(tokenizer().encode(prompt)) - 1
    with pytest.raises(TooManyTokensError) as caught:
        await stage(max_request_tokens=100 * tokens - 1).tokenize(EmbedJob("m", texts=["a"] * 100, prompt=prompt))
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "input", "max_tokens_per_request")
    assert caught.value.message == (
        f"The prompt alone comes to {100 * tokens} tokens in 100 inputs, max {100 * tokens - 1} tokens per request. "
        "Send fewer inputs, or a shorter instruction."
    )


async def test_prompts_count_towards_the_estimate() -> None:
    job = EmbedJob("m", texts=["abcd", "abcdefgh"], prompt="x" * 40)
    assert estimated_tokens(job, Limits()) == 11 + 12


async def test_what_is_cut_is_counted() -> None:
    job = EmbedJob("m", texts=["one two three four five", "a", "b c d e f g h"], truncate=Truncate.END)
    got = await stage(max_input_tokens=4).tokenize(job)
    assert ([len(row) for row in got], job.truncated) == ([4, 2, 4], 2)
    assert job.truncated == 2


async def test_end_of_text_is_appended_only_if_absent() -> None:
    end = tokenizer().end_of_text_id
    got = await stage().tokenize(EmbedJob("m", token_ids=[ids(5, 6), ids(5, end)]))
    assert [row.tolist() for row in got] == [[5, 6, end], [5, end]]


async def test_ids_outside_the_vocabulary() -> None:
    with pytest.raises(InvalidRequestError, match=r"Input 1 has token id 1280.*end at 1279") as caught:
        await stage().tokenize(EmbedJob("m", token_ids=[ids(5), ids(VOCABULARY)]))
    assert caught.value.param == "input"


async def test_special_tokens_that_the_model_has_no_row_for() -> None:
    end = tokenizer().end_of_text_id
    smaller = JobTokenizer(tokenizer(), Limits(), end)
    with pytest.raises(InvalidRequestError, match=f"token id {end}.*special token"):
        await smaller.tokenize(EmbedJob("m", texts=["a"]))


async def test_token_ids_refused_by_setting() -> None:
    with pytest.raises(InvalidRequestError, match="send the text itself"):
        await stage("refuse").tokenize(EmbedJob("m", token_ids=[ids(5)]))


async def test_too_long_is_refused_with_both_lengths() -> None:
    text = "word " * 100
    length = len(tokenizer().encode(text))
    with pytest.raises(InvalidRequestError) as caught:
        await stage(max_input_tokens=50).tokenize(EmbedJob("m", texts=[text]))
    assert str(caught.value) == f"Input length {length} exceeds maximum allowed length 50"
    with pytest.raises(InvalidRequestError) as caught:
        await stage(max_input_tokens=50).tokenize(EmbedJob("m", texts=["a", text]))
    assert str(caught.value) == f"Input length {length} exceeds maximum allowed length 50 (input index 1)"


@pytest.mark.parametrize(("side", "kept"), [(Truncate.END, slice(0, 9)), (Truncate.START, slice(-10, -1))])
async def test_truncation_keeps_the_end_of_text(side: Truncate, kept: slice) -> None:
    whole = tokenizer().encode("one two three four five six seven eight nine ten eleven twelve")
    [got] = await stage().tokenize(EmbedJob("m", token_ids=[whole], truncate=side, truncate_to=10))
    assert got.tolist() == [*whole[kept].tolist(), tokenizer().end_of_text_id]


async def test_too_many_tokens_in_all() -> None:
    with pytest.raises(TooManyTokensError, match="Requested 40 tokens, max 30 tokens per request") as caught:
        await stage(max_input_tokens=20, max_request_tokens=30).tokenize(EmbedJob("m", token_ids=[ids(*range(19))] * 2))
    assert (caught.value.type, caught.value.code) == ("max_tokens_per_request", "max_tokens_per_request")


def test_a_tiktoken_encoding_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tiktoken_file"):
        JobTokenizer(tokenizer(), Limits(), VOCABULARY, "tiktoken:cl100k_base", str(tmp_path / "absent.tiktoken"))
