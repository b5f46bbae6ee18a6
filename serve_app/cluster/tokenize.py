"""The first stage of a request: from a job's texts or token ids to the model's token ids, within the limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import CheckpointError, InputTooLongError, InvalidRequestError, TooManyTokensError
from serve_app.types import EmbedJob, Limits, TokenIds, Truncate

# Below this many characters a thread hop costs more than it spares the event loop (a token takes about 1 µs).
INLINE_CHARACTERS = 4096

# What has been given to a thread runs to its end, so a request that nobody waits for any more is given up between such parts.
PART_CHARACTERS = 256 * 1024

# English has about 4 characters to a token, Chinese 1.5. Only to count what isn't tokenized yet towards the backlog.
CHARACTERS_PER_TOKEN = 4


class JobTokenizer:
    """Turns a job into one int32 array per input, each ending with `<|endoftext|>`.

    `token_ids` says what token-id inputs mean: `model`, `refuse` or `tiktoken:<encoding>`; `vocab_size` is the number of rows of the
    model's embedding table. `limits` can be set at any time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        limits: Limits,
        vocab_size: int,
        token_ids: str = "model",
        tiktoken_file: str | None = None,
    ) -> None:
        self._tokenizer = self.model_tokenizer = tokenizer
        self.limits = limits
        self._vocab_size = vocab_size
        self._foreign = token_ids
        self._decode = foreign_decoder(token_ids, tiktoken_file)

    async def tokenize(self, job: EmbedJob) -> list[TokenIds]:
        """Token ids of every input; those that lost some of theirs are counted in `job.truncated`.

        Raises `InvalidRequestError` or `TooManyTokensError` (both status 400).
        Returns without having yielded to the event loop where the job is small.
        """
        if job.texts is None:
            inputs = await self._from_token_ids(job)
        else:
            inputs = await self._from_texts(job)
            if self._tokenizer.vocab_size > self._vocab_size:
                # The 4B and 8B checkpoints' tokenizer knows special tokens that their embedding table has no rows for.
                self._check_vocabulary(inputs, "Its text contains a special token, like <think>: remove that.")
        return self._fit(job, inputs)

    async def _from_texts(self, job: EmbedJob) -> list[TokenIds]:
        texts, prompt = job.texts or [], job.prompt
        if prompt:
            self._check_room(prompt, len(texts))
            texts = [prompt + text for text in texts]
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._tokenizer.encode_batch(texts)
        if job.truncate is Truncate.NONE:
            await self._check_lengths(texts, self._limit(job))
        return await self._in_parts(texts, self._limit(job), job.truncate)

    async def _check_lengths(self, texts: list[str], limit: int) -> None:
        """Refuse a text that is over the limit whatever its tokens are; a huge word, say, is tokenized in whole or not at all."""
        if (bound := self._tokenizer.bound) is None:
            return
        for index, text in enumerate(texts):
            if len(text) > limit * bound.shortest:
                tokens = 1 + await asyncio.to_thread(bound.fewest, text)
                if tokens > limit:
                    raise InputTooLongError(tokens, limit, index if len(texts) > 1 else None, at_least=True)

    def _check_room(self, prompt: str, count: int) -> None:
        """Refuse a prompt that is too much even with empty texts, before it is tokenized again and again."""
        if len(prompt) * count > PART_CHARACTERS:
            # Its last token may become one with the text's first, and each input has a closing token.
            tokens = (len(self._tokenizer.encode(prompt)) - 1) * count
            if tokens > self.limits.max_request_tokens:
                raise TooManyTokensError(
                    f"The prompt alone comes to {tokens} tokens in {count} inputs, max {self.limits.max_request_tokens} tokens "
                    "per request. Send fewer inputs, or a shorter instruction.",
                    param="input",
                )

    async def _in_parts(self, texts: list[str], limit: int, side: Truncate) -> list[TokenIds]:
        inputs: list[TokenIds] = []
        tokens, most = 0, self.limits.max_request_tokens
        for part in parts(texts, PART_CHARACTERS):
            if tokens > most:  # before the rest is tokenized too
                raise TooManyTokensError(
                    f"Requested at least {tokens} tokens, max {most} tokens per request", param="input"
                )
            found = await asyncio.to_thread(self._tokenizer.encode_to_cut, part, limit, side)
            if side is Truncate.NONE:
                self._check_huge(part, found, limit, len(inputs) if len(texts) > 1 else None)
            tokens += sum(min(len(ids), limit) for ids in found)
            inputs += found
        return inputs

    def _check_huge(self, texts: list[str], found: list[TokenIds], limit: int, first: int | None) -> None:
        """Refuse what is over the limit and may have been tokenized in part: how many tokens it has in all isn't known. `first` is the
        index of the first text, None if it is the only one."""
        for index, (text, ids) in enumerate(zip(texts, found, strict=True)):
            if len(ids) > limit and len(text) > self._tokenizer.whole_up_to(limit):
                raise InputTooLongError(len(ids), limit, None if first is None else first + index, at_least=True)

    async def _from_token_ids(self, job: EmbedJob) -> list[TokenIds]:
        inputs = job.token_ids or []
        if self._foreign == "refuse":
            raise InvalidRequestError("This server takes no token ids: send the text itself.", param="input")
        if self._decode is not None:
            texts = await asyncio.to_thread(self._decode_foreign, inputs)
            return await self._in_parts(texts, self._limit(job), job.truncate)
        self._check_vocabulary(
            inputs,
            "Token ids must come from this model's own tokenizer; send the text itself if yours come from another.",
        )
        return [self._tokenizer.append_end_of_text(ids) for ids in inputs]

    def _check_vocabulary(self, inputs: list[TokenIds], advice: str) -> None:
        for index, ids in enumerate(inputs):
            if (largest := ids.max()) >= self._vocab_size:
                raise InvalidRequestError(
                    f"Input {index} has token id {largest}, but this model's ids end at {self._vocab_size - 1}. {advice}",
                    param="input",
                )

    def _decode_foreign(self, inputs: list[TokenIds]) -> list[str]:
        assert self._decode is not None
        texts = []
        for index, ids in enumerate(inputs):
            try:
                texts.append(self._decode(ids))
            except (KeyError, OverflowError):
                raise InvalidRequestError(
                    f"Input {index} has token ids that {self._foreign.partition(':')[2]} doesn't have.", param="input"
                ) from None
        return texts

    def _limit(self, job: EmbedJob) -> int:
        """The most tokens that an input of this job may have."""
        limit = self.limits.max_input_tokens
        return limit if job.truncate_to is None else min(limit, job.truncate_to)

    def _fit(self, job: EmbedJob, inputs: list[TokenIds]) -> list[TokenIds]:
        limit, side = self._limit(job), job.truncate
        if side is not Truncate.NONE:
            job.truncated = sum(len(ids) > limit for ids in inputs)
            if job.truncated:
                inputs = self._cut(inputs, limit, side, job.prompt)
        lengths = [len(ids) for ids in inputs]
        if max(lengths) > limit:
            index = next(index for index, length in enumerate(lengths) if length > limit)
            raise InputTooLongError(lengths[index], limit, index if len(inputs) > 1 else None)
        if (total := sum(lengths)) > self.limits.max_request_tokens:
            raise TooManyTokensError(
                f"Requested {total} tokens, max {self.limits.max_request_tokens} tokens per request", param="input"
            )
        return inputs

    def _cut(self, inputs: list[TokenIds], limit: int, side: Truncate, prompt: str | None) -> list[TokenIds]:
        """The inputs at `limit` or below. A prompt stays whole: without it the vectors would be another task's."""
        head = self._tokenizer.encode(prompt)[:-1] if prompt else np.empty(0, np.int32)
        if prompt and len(head) + 2 > limit:
            raise InvalidRequestError(
                f"The prompt takes {len(head)} of the {limit} tokens that an input may have, which leaves none for the text. "
                "Send a shorter instruction, or allow more tokens.",
                param="input",
            )
        if side is Truncate.START:
            rest = limit - len(head)
            return [
                np.concatenate((head, self._tokenizer.cut(ids, rest, side))) if len(ids) > limit else ids
                for ids in inputs
            ]
        return [self._tokenizer.cut(ids, limit, side) if len(ids) > limit else ids for ids in inputs]


def estimated_tokens(job: EmbedJob, limits: Limits) -> int:
    """About how many tokens a job will have computed, told from its size: what is over the limits is cut or refused."""
    longest = limits.max_input_tokens
    if job.texts is not None:
        prompt = len(job.prompt or "")
        estimate = sum(min((prompt + len(text)) // CHARACTERS_PER_TOKEN, longest) for text in job.texts)
    else:
        estimate = sum(min(len(ids), longest) for ids in job.token_ids or ())
    return min(estimate, limits.max_request_tokens)


def parts(texts: list[str], characters: int) -> Iterator[list[str]]:
    """`texts` in runs of at most so many characters each, or of a single text."""
    start = size = 0
    for index, text in enumerate(texts):
        if size + len(text) > characters and index > start:
            yield texts[start:index]
            start, size = index, 0
        size += len(text)
    yield texts[start:]


def foreign_decoder(token_ids: str, tiktoken_file: str | None) -> Callable[[TokenIds], str] | None:
    """What makes texts of token ids under this setting; None unless it is `tiktoken:<encoding>`. Raises `CheckpointError`."""
    kind, _, encoding = token_ids.partition(":")
    return tiktoken_decoder(encoding, tiktoken_file) if kind == "tiktoken" else None


def tiktoken_decoder(encoding: str, file: str | None) -> Callable[[TokenIds], str]:
    """Decoder of a tiktoken encoding, from a local `.tiktoken` file or by its name. Raises `CheckpointError` if it can't be had."""
    try:
        import tiktoken  # noqa: PLC0415 - an optional extra
        from tiktoken.load import load_tiktoken_bpe  # noqa: PLC0415
    except ImportError as error:
        raise CheckpointError("token_ids=tiktoken:… needs the extra: pip install 'embedserve[tiktoken]'") from error
    try:
        if file is None:
            known = tiktoken.get_encoding(encoding)
        else:
            # Decoding needs the ranks only; the pattern is for encoding, which is never done.
            ranks = load_tiktoken_bpe(str(Path(file).expanduser()))
            known = tiktoken.Encoding(encoding, pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})
    except Exception as error:
        raise CheckpointError(
            f"tiktoken encoding {encoding!r} can't be loaded ({type(error).__name__}); without internet, set tiktoken_file"
        ) from error
    return lambda ids: known.decode_bytes(ids.tolist()).decode("utf-8", errors="replace")
