"""Checks of a checkpoint's files: no model is loaded for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from serve_app.engine.checkpoint import Checkpoint, check_modules, refuse_adapter
from serve_app.engine.finding import Finding
from serve_app.engine.golden import PROMPT
from serve_app.engine.known import Recognised, sha256_of, weight_files
from serve_app.engine.model_config import parse_config
from serve_app.engine.tokenizer import END_OF_TEXT, Tokenizer
from serve_app.errors import CheckpointError
from serve_app.types import Truncate

_PART = 1 << 24  # numbers of a tensor that are looked at together


def check_folder(path: Path) -> Iterator[Finding]:
    """Adapter, configuration, pooling and end token, each on its own, so that one fault doesn't hide another."""

    def config() -> str:
        fields = json.loads((path / "config.json").read_text(encoding="utf-8"))
        found = parse_config(fields, "config.json")
        return f"{found.num_hidden_layers} layers, {found.hidden_size} dimensions, {found.parameters:,} parameters"

    def adapter() -> str:
        refuse_adapter(path)
        return "no LoRA adapter lies in the folder, to be ignored"

    def pooling() -> str:
        check_modules(path)
        return "the folder asks for the last token's vector, normalised, or for nothing"

    yield _attempt("adapter", adapter, path)
    yield _attempt("config", config, path)
    yield _attempt("pooling files", pooling, path)
    yield _attempt("end token", lambda: check_end_token(Tokenizer.read(path)), path)


def check_end_token(tokenizer: Tokenizer) -> str:
    """What to say of a tokenizer whose texts end as they should, cut ones included. Raises `CheckpointError`."""
    texts = ["", "The capital of China is Beijing.", "中国的首都是北京。 " * 9, f"{END_OF_TEXT} typed by a user"]
    for ids in tokenizer.encode_batch(texts):
        for cut in (ids, tokenizer.cut(ids, 4, Truncate.END), tokenizer.cut(ids, 4, Truncate.START)):
            if cut[-1] != tokenizer.end_of_text_id:
                raise CheckpointError(
                    f"tokenizer.json: a text of {len(ids)} tokens doesn't end with {END_OF_TEXT} when cut to {len(cut)}"
                )
    return f"texts end with {END_OF_TEXT} ({tokenizer.end_of_text_id}), after truncation too"


def check_prompts(checkpoint: Checkpoint, recognised: Recognised | None) -> Finding:
    """Whether a published model's query prompt is what it was trained with, to the letter; others' are only shown."""
    query, document = checkpoint.prompts.get("query"), checkpoint.prompts.get("document", "")
    published = recognised is not None and PROMPT in recognised.golden.queries[0] and bool(recognised.golden.revisions)
    if query is None:
        return Finding("prompts", True, f"the checkpoint has none, so queries get {PROMPT!r}")
    if published and (query != PROMPT or document):
        return Finding(
            "prompts",
            False,
            f"config_sentence_transformers.json has {query!r} for queries and {document!r} for documents, but the model was trained "
            f"with {PROMPT!r} and none; a space after 'Query:' is enough to lose quality. Fetch that file again.",
        )
    return Finding("prompts", True, f"{query!r} before queries, {document!r} before documents")


def check_weights(checkpoint: Checkpoint, recognised: Recognised | None) -> Iterator[Finding]:
    """Whether all weights are numbers, and a known checkpoint's the known ones. Reads all of them."""
    files = weight_files(checkpoint.path)
    try:
        bad = [name for file in files.values() for name in _not_finite(file)]
    except (SafetensorError, OSError) as error:
        yield Finding("weights", False, f"not readable as safetensors ({error}): fetch them again")
        return
    if bad:
        more = f" and {len(bad) - 3} more tensors" if len(bad) > 3 else ""
        yield Finding("weights", False, f"NaN or infinity in {', '.join(bad[:3])}{more}: fetch the weights again")
    else:
        yield Finding(
            "weights", bool(files), f"every number in {len(files)} files is finite" if files else "there are none"
        )
    wanted = recognised.golden.weights if recognised is not None else {}
    if recognised is None or not wanted:
        return
    found = sha256_of(files, trust_names=False)
    other = [name for name in sorted({*wanted, *found}) if name not in wanted or found.get(name) != wanted[name].sha256]
    if other:
        said = (
            f"{', '.join(other)} of {recognised.golden.model} should have another SHA-256, and this folder is known by "
            f"{recognised.by} to be that: it is damaged or from an upload not known here. Fetch it again"
        )
        yield Finding("weight hash", False, said)
    else:
        yield Finding("weight hash", True, f"all {len(wanted)} files have the SHA-256 of {recognised.golden.model}")


def _not_finite(file: Path) -> Iterator[str]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            stored = tensors.get_slice(name)
            shape = stored.get_shape()
            rows = max(1, _PART // max(1, torch.Size(shape[1:]).numel()))
            if not all(bool(stored[begin : begin + rows].isfinite().all()) for begin in range(0, shape[0], rows)):
                yield name


def _attempt(check: str, work: Callable[[], str], path: Path) -> Finding:
    try:
        return Finding(check, True, work())
    except (CheckpointError, OSError, ValueError) as error:
        return Finding(check, False, str(error).removeprefix(f"{path}/").removeprefix(f"{path}: "))
