"""Text to token ids, with the end-of-text token that the model is pooled at.

Imports neither torch nor transformers: tokenizing happens in the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from serve_app.engine.token_bound import token_bound
from serve_app.engine.token_boundary import token_boundary
from serve_app.errors import CheckpointError
from serve_app.types import TokenIds, Tokenized, Truncate

END_OF_TEXT = "<|endoftext|>"

# Prose has 1.5 to 5 characters to a token: most texts have more tokens than wanted in so many characters for each of them.
CHARACTERS_FOR_A_TOKEN = 8
LEAST_CHARACTERS = 1024

# How far a place is looked for at which a text can be taken apart. Longer words are hardly ever words, and looking holds the GIL.
LONGEST_WORD = 4096


class Tokenizer:
    """A checkpoint's `tokenizer.json`, used as it is.

    Safe to call from many threads at once; encoding releases the GIL, so that a long text doesn't hold up
    an event loop. Special tokens written out in a text become that special token, as they do in
    transformers.

    Attributes: `end_of_text_id`, the id every encoded text ends with; `vocab_size`, one more than the
    largest id, added tokens included (larger than the model's `vocab_size` in some published checkpoints); `bound`, how few tokens a
    text can have, None if that can't be told; `boundary`, where texts can be taken apart, None if that isn't known.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Wrap a loaded tokenizer. Raises `CheckpointError` if it doesn't end texts with `<|endoftext|>`."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        end_of_text_id = tokenizer.token_to_id(END_OF_TEXT)
        if end_of_text_id is None:
            raise CheckpointError(f"tokenizer.json: there is no token {END_OF_TEXT}")
        for text in ("", "The capital of China is Beijing."):
            ids = tokenizer.encode(text).ids
            if not ids or ids[-1] != end_of_text_id:
                raise CheckpointError(
                    f"tokenizer.json: encoding {text!r} doesn't end with {END_OF_TEXT}, which the model is "
                    "pooled at. The first uploads of these models lacked that step: fetch a newer revision."
                )
        self._tokenizer = tokenizer
        self.end_of_text_id: int = end_of_text_id
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self.bound = token_bound(tokenizer)
        self.boundary = token_boundary(tokenizer)

    @classmethod
    def read(cls, path: Path) -> Tokenizer:
        """Load `tokenizer.json` from the checkpoint folder `path`. Raises `CheckpointError` if it can't be
        used."""
        file = path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{path}: tokenizer.json is missing")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{file}: not readable as a tokenizer ({error})") from error
        return cls(tokenizer)

    def encode(self, text: str) -> TokenIds:
        """Token ids of one text, int32 `[tokens]`, ending with `<|endoftext|>`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, int32 `[tokens]`, each ending with `<|endoftext|>`."""
        # The single-text call of the library keeps the GIL, so every call takes this way.
        return [np.array(encoding.ids, dtype=np.int32) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def encode_to_cut(self, texts: Sequence[str], limit: int, side: Truncate) -> list[TokenIds]:
        """Token ids of texts that will be cut to `limit` tokens at most, or refused, int32 `[tokens]` each.

        `cut` makes the same of them as of `encode_batch(texts)`, and they are over the limit if and only if those are. Only as much
        of a huge text is tokenized as that takes, from the end that is kept (the start where nothing may be cut, `Truncate.NONE`); all
        of it where there is no `boundary`, as in a single word of a million characters.
        """
        size = self.whole_up_to(limit)
        rest = iter(self.encode_batch([text for text in texts if len(text) <= size]))
        return [next(rest) if len(text) <= size else self._enough(text, size, limit, side) for text in texts]

    def whole_up_to(self, limit: int) -> int:
        """The length in characters up to which `encode_to_cut` tokenizes texts as they are."""
        return max(LEAST_CHARACTERS, limit * CHARACTERS_FOR_A_TOKEN)

    def _enough(self, text: str, size: int, limit: int, side: Truncate) -> TokenIds:
        while self.boundary is not None and size < len(text):
            near = len(text) - size if side is Truncate.START else size
            place = self.boundary.search(text, near, near + LONGEST_WORD)
            if place is not None:
                ids = self.encode(text[place.start() :] if side is Truncate.START else text[: place.start()])
                if len(ids) > limit:
                    return ids
            size *= 2
        return self.encode(text)

    def encode_with_places(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[tokenizers.Encoding]:
        """The library's encoding of each text, which knows where in it each token is; for `describe`. Without
        `add_special_tokens` they don't end with `<|endoftext|>`; special tokens written out in a text stay."""
        return list(self._tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens))

    def describe(self, text: str, encoding: tokenizers.Encoding) -> Tokenized:
        """The tokens of `text` from its encoding. Holds the GIL for about 0.1 µs a token."""
        ids = encoding.ids
        added = {
            index: str(self._tokenizer.id_to_token(ids[index]))
            for index, special in enumerate(encoding.special_tokens_mask)
            if special
        }
        return Tokenized(text, ids, encoding.offsets, added)

    def decode(self, ids: TokenIds) -> str:
        """The text of `ids`, special tokens included."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, inputs: Sequence[TokenIds], skip_special_tokens: bool = False) -> list[str]:
        """The text of each of these; what isn't whole characters becomes U+FFFD."""
        # The single call of the library keeps the GIL, as for encoding.
        ids = [one.tolist() for one in inputs]
        return list(self._tokenizer.decode_batch(ids, skip_special_tokens=skip_special_tokens))

    def append_end_of_text(self, ids: TokenIds) -> TokenIds:
        """`ids` with `<|endoftext|>` at the end, added only if it isn't there."""
        if len(ids) and ids[-1] == self.end_of_text_id:
            return ids
        return np.append(ids, np.int32(self.end_of_text_id)).astype(np.int32)

    def cut(self, ids: TokenIds, limit: int, side: Truncate) -> TokenIds:
        """At most `limit` of `ids`, dropped from the start or the end, always ending with `<|endoftext|>`.

        Raises `ValueError` for a limit below 1, and when ids are over the limit but `side` is
        `Truncate.NONE`.
        """
        if limit < 1:
            raise ValueError(f"limit is {limit}, at least 1 is needed for {END_OF_TEXT}")
        ids = self.append_end_of_text(ids)
        if len(ids) <= limit:
            return ids
        if side is Truncate.NONE:
            raise ValueError(f"{len(ids)} tokens are over the limit of {limit} and nothing may be dropped")
        if side is Truncate.START:
            return ids[len(ids) - limit :]
        return np.append(ids[: limit - 1], ids[-1:])
