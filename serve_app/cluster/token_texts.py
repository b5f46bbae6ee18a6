"""Texts to tokens with their places, and token ids to texts, without a job: what clients ask to see the tokenizer's work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serve_app.cluster.tokenize import INLINE_CHARACTERS, PART_CHARACTERS, parts
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import InvalidRequestError, TooManyTokensError
from serve_app.types import Limits, TokenIds, Tokenized

# Below this many ids a thread hop costs more than it spares the event loop.
INLINE_IDS = 1024


async def tokenized(
    tokenizer: Tokenizer, texts: list[str], prompt: str | None, add_special_tokens: bool, limits: Limits
) -> list[Tokenized]:
    """The tokens of each text, `prompt` before it. An input may be longer than the model takes; that is a reason to ask.

    Raises `TooManyTokensError` if there are more tokens than a request may have.
    """
    if prompt:
        texts = [prompt + text for text in texts]
    found: list[Tokenized] = []
    total = 0
    for part in parts(texts, PART_CHARACTERS):
        if sum(map(len, part)) <= INLINE_CHARACTERS:
            found += tokenizer.describe_batch(part, add_special_tokens)
        else:
            found += await asyncio.to_thread(tokenizer.describe_batch, part, add_special_tokens)
        total += sum(len(one.ids) for one in found[-len(part) :])
        if total > limits.max_request_tokens:
            raise TooManyTokensError(
                f"More than {limits.max_request_tokens} tokens. Send fewer or shorter texts.", "inputs"
            )
    return found


async def decoded(tokenizer: Tokenizer, inputs: Sequence[TokenIds], skip_special_tokens: bool) -> list[str]:
    """The text of each of `inputs`, int32 `[length]`. Raises `InvalidRequestError` for ids that the tokenizer doesn't have."""
    for index, ids in enumerate(inputs):
        if (largest := ids.max()) >= tokenizer.vocab_size:
            raise InvalidRequestError(
                f"List {index} has token id {largest}, but this model's ids end at {tokenizer.vocab_size - 1}.", "ids"
            )
    if sum(map(len, inputs)) <= INLINE_IDS:
        return [tokenizer.decode(ids, skip_special_tokens) for ids in inputs]
    return await asyncio.to_thread(lambda: [tokenizer.decode(ids, skip_special_tokens) for ids in inputs])
