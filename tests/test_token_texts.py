"""Tokens with their places, and texts of token ids: in parts, within limits, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serve_app.cluster import token_texts
from serve_app.cluster.token_texts import decoded, tokenized
from serve_app.errors import InvalidRequestError, TooManyTokensError
from serve_app.types import Limits, TokenIds, Tokenized
from tests.reference import VOCABULARY, tokenizer

LIMITS = Limits(max_request_tokens=1000)


async def of(*texts: str, limits: Limits = LIMITS, prompt: str | None = None, special: bool = True) -> list[Tokenized]:
    return await tokenized(tokenizer(), list(texts), prompt, special, limits)


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts or lists each call in a thread was given."""
    seen: list[int] = []

    async def in_turn(work: Any, *args: Any) -> Any:
        seen.append(next(len(argument) for argument in args if isinstance(argument, list)))
        return work(*args)

    monkeypatch.setattr(token_texts, "_in_turn", in_turn)
    return seen


async def test_ids_are_those_of_the_vectors_and_places_cover_the_text() -> None:
    texts = ["The capital of China is Beijing.", "重力是一种力。", "\n\n  x\t"]
    for found, text, ids in zip(await of(*texts), texts, tokenizer().encode_batch(texts), strict=True):
        assert found.text == text
        assert found.ids == ids.tolist()
        last = len(found.ids) - 1
        assert found.added == {last: "<|endoftext|>"}
        covered = sorted({place for start, stop in found.offsets[:last] for place in range(start, stop)})
        assert covered == list(range(len(text)))


async def test_a_prompt_is_part_of_the_text() -> None:
    [found] = await of("what?", prompt="find: ", special=False)
    assert (found.text, found.added) == ("find: what?", {})
    assert found.ids == tokenizer().encode("find: what?")[:-1].tolist()


async def test_large_texts_go_through_threads_in_parts(monkeypatch: pytest.MonkeyPatch, hops: list[int]) -> None:
    monkeypatch.setattr(token_texts, "PART_CHARACTERS", 100)
    monkeypatch.setattr(token_texts, "INLINE_CHARACTERS", 50)
    texts = ["a" * 30, "b" * 60, "c" * 60, "d"]
    found = await of(*texts)
    assert [one.ids for one in found] == [ids.tolist() for ids in tokenizer().encode_batch(texts)]
    assert hops == [2, 2]


async def test_tokens_are_counted_over_all_parts(monkeypatch: pytest.MonkeyPatch, hops: list[int]) -> None:
    monkeypatch.setattr(token_texts, "PART_CHARACTERS", 1)
    text = "some words here"
    each = len(tokenizer().encode(text))
    assert len(await of(text, text, text, limits=Limits(max_request_tokens=3 * each))) == 3
    with pytest.raises(TooManyTokensError, match=f"more than {3 * each - 1} tokens") as caught:
        await of(text, text, text, limits=Limits(max_request_tokens=3 * each - 1))
    assert caught.value.param == "inputs"


async def test_far_too_long_texts_are_not_even_tokenized(hops: list[int]) -> None:
    with pytest.raises(TooManyTokensError, match="more than 8000 characters"):
        await of("a" * 8001)
    assert hops == []


async def test_decoding_large_lists_goes_through_a_thread(hops: list[int]) -> None:
    small, large = np.array([1, 2], np.int32), np.full(token_texts.INLINE_IDS + 1, 71, np.int32)
    assert await decoded(tokenizer(), [small], True) == [tokenizer().decode(small)]
    assert hops == []
    assert await decoded(tokenizer(), [small, large], True) == [tokenizer().decode(one) for one in (small, large)]
    assert hops == [2]


async def test_ids_beyond_the_vocabulary_are_refused() -> None:
    inputs: Sequence[TokenIds] = [np.array([1], np.int32), np.array([1, tokenizer().vocab_size], np.int32)]
    with pytest.raises(
        InvalidRequestError, match=rf"List 1 has token id {VOCABULARY}.*end at {VOCABULARY - 1}"
    ) as caught:
        await decoded(tokenizer(), inputs, True)
    assert caught.value.param == "ids"


async def test_the_event_loop_runs_while_a_text_is_tokenized_and_decoded() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    task = asyncio.create_task(beat())
    [found] = await of("a word " * 40_000, limits=Limits())
    between = beats
    await decoded(tokenizer(), [np.array(found.ids, np.int32)], True)
    task.cancel()
    assert between > 2
    assert beats - between > 2


async def test_megabytes_take_one_thread_and_none_that_others_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen callers with a word of a million characters: one is at work, and who leaves before its turn costs nothing."""
    running, most, begun = 0, 0, []
    go_on = threading.Event()

    def describe(_: Any, texts: list[str], *__: Any) -> list[Tokenized]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.append(texts[0][0])
        go_on.wait(30)
        running -= 1
        return []

    monkeypatch.setattr(token_texts, "_described", describe)
    callers = [asyncio.create_task(of(letter * 10**6, limits=Limits())) for letter in "abcdefghijkl"]
    async with asyncio.timeout(30):
        while not begun:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for caller in callers[3:]:
            caller.cancel()
        assert await asyncio.to_thread(lambda: "free") == "free"
        go_on.set()
        assert await asyncio.gather(*callers[:3]) == [[], [], []]
        await asyncio.gather(*callers[3:], return_exceptions=True)
    assert (most, begun) == (1, ["a", "b", "c"])
