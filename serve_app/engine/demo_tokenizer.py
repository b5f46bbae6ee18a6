"""The demo checkpoint's tokenizer: the published one's steps and special tokens over a small vocabulary of
its own."""

from __future__ import annotations

from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from serve_app.engine.demo_text import DEMO_TEXT
from serve_app.engine.token_boundary import QWEN_SPLIT
from serve_app.errors import CheckpointError

_SPECIAL = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
_ADDED = [
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
]
_BYTES = 256
SMALLEST_VOCAB = _BYTES + len(_SPECIAL) + len(_ADDED)


def demo_tokenizer(vocab_size: int, *, end_of_text: bool = True) -> Tokenizer:
    """Train a byte-level BPE with `vocab_size` ids in all, the special tokens last as in the published
    tokenizer.

    `end_of_text=False` leaves out the step that appends `<|endoftext|>`, as the first published uploads did.
    Raises `CheckpointError` if the training text can't fill `vocab_size`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_SPECIAL) - len(_ADDED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(DEMO_TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in _ADDED])
    if tokenizer.get_vocab_size() != vocab_size:
        raise CheckpointError(
            f"a demo vocabulary has {SMALLEST_VOCAB} to about 2,000 ids, not {vocab_size}: the training text is small"
        )
    byte_level = processors.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    tokenizer.post_processor = byte_level
    if end_of_text:
        last = [(_SPECIAL[0], tokenizer.token_to_id(_SPECIAL[0]))]
        template = processors.TemplateProcessing(
            single=f"$A {_SPECIAL[0]}", pair=f"$A {_SPECIAL[0]} $B:1 {_SPECIAL[0]}:1", special_tokens=last
        )
        tokenizer.post_processor = processors.Sequence([byte_level, template])
    return tokenizer


def tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of `tokenizer_config.json`."""
    decoder = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in _SPECIAL,
        }
        for token in (*_SPECIAL, *_ADDED)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": _SPECIAL[1:],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": _SPECIAL[0],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
