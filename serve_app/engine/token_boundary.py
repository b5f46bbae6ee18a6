"""Places at which a text can be taken apart without changing a token, so that a huge text needn't be tokenized whole to be cut.

At such a place k, `encode(text) == encode(text[:k]) + encode(text[k:])`, exactly. That is proved for Qwen's pre-tokenizer, the
pattern `QWEN_SPLIT`, from the characters on both sides of k alone:

- no alternative of the pattern matches across k, so that its scan of the whole text stops at k, and starts there as at a text's
  beginning (it never looks back);
- what it matches before k it would match at a text's end too: a run of letters, marks or white space that ends at k ends there
  in both, and `\\s+(?!\\S)` and `\\s*[\\r\\n]+`, which look for the end of a run of white space, find it before k or at k;
- NFC puts nothing together across k: what follows is no combining character, or what precedes is a line's end;
- BPE works within what the pattern matches, and no added token of the vocabulary stretches over such a place.
"""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut text before BPE: contractions, words, single digits, marks, line ends, other white space."""

# Letters that are letters in every version of Unicode, and that NFC leaves alone behind whatever character.
_LETTERS = "A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
_MARKS = r",.;:!?\u3001\u3002\uff0c\uff01\uff1f\uff1b\uff1a\n"

# Python's \s has all that Unicode calls white space, and a few controls more.
BOUNDARY = re.compile(
    r"(?<=\S)(?= )"  # a word's end
    r"|(?<=\n)(?=\S)"  # a line's beginning
    rf"|(?<=[{_LETTERS}0-9])(?=[{_MARKS}])"  # a word's end, in writing without spaces too
    rf"|(?<=[0-9])(?=[{_LETTERS}0-9])|(?<=[{_LETTERS}])(?=[0-9])"  # a digit is always alone
)
"""Matches, with no characters, where a text can be taken apart."""


def token_boundary(tokenizer: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """`BOUNDARY`, if it holds for this tokenizer; None if that isn't known."""
    added = tokenizer.get_added_tokens_decoder().values()
    if (
        not isinstance(tokenizer.model, tokenizers.models.BPE)
        or _state(tokenizer.normalizer) not in (None, {"type": "NFC"})
        or not _splits_as_qwen(_state(tokenizer.pre_tokenizer))
        or any(token.single_word or token.lstrip or token.rstrip or BOUNDARY.search(token.content) for token in added)
    ):
        return None
    return BOUNDARY


def _splits_as_qwen(state: dict[str, Any] | None) -> bool:
    if state is None or state["type"] != "Sequence" or len(state["pretokenizers"]) != 2:
        return False
    split, bytes_ = state["pretokenizers"]
    return (
        split == {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
        and bytes_["type"] == "ByteLevel"
        and not bytes_["add_prefix_space"]
        and not bytes_["use_regex"]
    )


def _state(part: Any) -> dict[str, Any] | None:
    """What a normalizer or pre-tokenizer is; the library tells it as JSON."""
    return None if part is None else json.loads(part.__getstate__())
