"""Texts to tokens with their places, and token ids to texts, without a job: what clients ask to see the tokenizer's work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve_app.cluster.tokenize import INLINE_CHARACTERS, PART_CHARACTERS, parts
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import InvalidRequestError, TooManyTokensError
from serve_app.types import Limits, TokenIds, Tokenized

# Below this many ids a thread hop costs more than it spares the event loop.
INLINE_IDS = 1024


T = TypeVar("T")

# One at a time, in a thread of its own: nothing else bounds this work, and a dozen of megabytes in the threads that everybody uses
# would keep those who want vectors waiting for half a minute. What its caller has left before its turn isn't begun.
_TURNS = ThreadPoolExecutor(1, "token-texts")

# A text is tokenized at one go, and nothing can stop that: a megabyte takes seconds. Prose has 1.5 to 5 characters to a token.
MOST_CHARACTERS_PER_TOKEN = 8


async def tokenized(
    tokenizer: Tokenizer, texts: list[str], prompt: str | None, add_special_tokens: bool, limits: Limits
) -> list[Tokenized]:
    """The tokens of each text, `prompt` before it. An input may be longer than the model takes; that is a reason to ask.

    Raises `TooManyTokensError` if there are more tokens than a request may have, or so many characters that there surely would be.
    """
    if prompt:
        texts = [prompt + text for text in texts]
    most = limits.max_request_tokens
    if sum(map(len, texts)) > most * MOST_CHARACTERS_PER_TOKEN:
        raise _too_many(f"{most * MOST_CHARACTERS_PER_TOKEN} characters")
    found: list[Tokenized] = []
    for part in parts(texts, PART_CHARACTERS):
        if sum(map(len, part)) <= INLINE_CHARACTERS:
            described = _described(tokenizer, part, add_special_tokens, most)
        else:
            described = await _in_turn(_described, tokenizer, part, add_special_tokens, most)
        if described is None:
            raise _too_many(f"{limits.max_request_tokens} tokens")
        found += described
        most -= sum(len(one.ids) for one in described)
    return found


def _described(tokenizer: Tokenizer, texts: list[str], add_special_tokens: bool, most: int) -> list[Tokenized] | None:
    """None if there are more than `most` tokens: what describing them takes is spared then."""
    encodings = tokenizer.encode_with_places(texts, add_special_tokens)
    if sum(map(len, encodings)) > most:
        return None
    return [tokenizer.describe(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]


def _too_many(what: str) -> TooManyTokensError:
    return TooManyTokensError(f"The texts have more than {what}. Send fewer or shorter texts.", "inputs")


async def decoded(tokenizer: Tokenizer, inputs: Sequence[TokenIds], skip_special_tokens: bool) -> list[str]:
    """The text of each of `inputs`, int32 `[length]`. Raises `InvalidRequestError` for ids that the tokenizer doesn't have."""
    for index, ids in enumerate(inputs):
        if (largest := ids.max()) >= tokenizer.vocab_size:
            raise InvalidRequestError(
                f"List {index} has token id {largest}, but this model's ids end at {tokenizer.vocab_size - 1}.", "ids"
            )
    if sum(map(len, inputs)) <= INLINE_IDS:
        return tokenizer.decode_batch(inputs, skip_special_tokens)
    return await _in_turn(tokenizer.decode_batch, inputs, skip_special_tokens)


async def _in_turn(work: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(_TURNS, work, *arguments)
