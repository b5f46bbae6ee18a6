"""Who runs in `loadtest.bench_engine`: our engine in each dtype, transformers and sentence-transformers, all with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from serve_app.engine.engine import Engine
from serve_app.engine.model import Model
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.precision import pick_precision
from serve_app.engine.tokenizer import Tokenizer
from serve_app.engine.weights import LayerWeights, Weights, named_tensors
from serve_app.types import Vectors

_MUCH_SLOWER = 1.5


class Contestant(Protocol):
    """Texts in, float32 vectors `[n, hidden]` of length 1 out."""

    def __call__(self, texts: list[str], batch_size: int) -> Vectors:
        """Tokenizing included; `batch_size` for those that batch by numbers of texts."""


class Ours:
    """`Engine.encode` over the tokenizer's ids."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self.engine = engine
        self._tokenizer = tokenizer

    def __call__(self, texts: list[str], batch_size: int) -> Vectors:
        """See `Contestant`."""
        return self.engine.encode(self._tokenizer.encode_batch(texts))


class Transformers:
    """transformers' own Qwen3 the way its model card shows it: padded batches, sorted by length, last token pooled."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def __call__(self, texts: list[str], batch_size: int) -> Vectors:
        """See `Contestant`."""
        ids = self._tokenizer.encode_batch(texts)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        done: list[Tensor] = []
        for begin in range(0, len(order), batch_size):
            done.append(self._batch([ids[i] for i in order[begin : begin + batch_size]]))
        vectors = np.empty((len(ids), done[0].shape[1]), np.float32)
        vectors[order] = torch.cat(done).cpu().numpy()
        return vectors

    def _batch(self, ids: Sequence[Any]) -> Tensor:
        device, longest = self._model.device, max(map(len, ids))
        padded = torch.zeros(len(ids), longest, dtype=torch.int64)
        mask = torch.zeros_like(padded)
        for row, one in enumerate(ids):  # on the left, so that the last position is everyone's last token
            padded[row, longest - len(one) :] = torch.from_numpy(one.astype(np.int64))
            mask[row, longest - len(one) :] = 1
        # A mask that hides nothing is left out: with one, the fastest attention isn't taken.
        seen = None if bool(mask.all()) else mask.to(device)
        states = self._model(padded.to(device), attention_mask=seen).last_hidden_state
        return torch.nn.functional.normalize(states[:, -1].float(), dim=-1)


class SentenceTransformers:
    """`SentenceTransformer.encode` itself."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __call__(self, texts: list[str], batch_size: int) -> Vectors:
        """See `Contestant`."""
        vectors: Vectors = self._pipeline.encode(texts, batch_size=batch_size, show_progress_bar=False)
        return vectors


def qwen3(config: ModelConfig, weights: Weights, attention: str) -> Any:
    """transformers' model computing with these very weights, not a copy."""
    from transformers import Qwen3Config, Qwen3Model

    shapes = asdict(config)
    shapes["rope_parameters"] = {"rope_type": "default", "rope_theta": shapes.pop("rope_theta")}
    described = Qwen3Config(**shapes, use_cache=False, attn_implementation=attention)
    with torch.device("meta"):
        model = Qwen3Model(described)
    model.load_state_dict(named_tensors(weights, config), assign=True)
    model.rotary_emb = type(model.rotary_emb)(described).to(weights.embedding.device)  # no weights of its own to load
    return model.eval()


def sentence_transformers(model: Any, folder: Path) -> SentenceTransformers | None:
    """With the tokenizer and pipeline of the checkpoint in `folder` around `model`; None where it isn't installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    attention = model.config._attn_implementation
    # It decides when it is made whether it goes without padding, which it does with flash attention.
    options = {} if attention == "sdpa" else {"attn_implementation": attention, "dtype": model.dtype}
    pipeline = SentenceTransformer(str(folder), device=str(model.device), model_kwargs=options)
    name = "model" if "model" in dict(pipeline[0].named_children()) else "auto_model"
    setattr(pipeline[0], name, model)
    pipeline.max_seq_length = model.config.max_position_embeddings
    return SentenceTransformers(pipeline)


def ours(config: ModelConfig, weights: Weights, dtype: str, max_batch_tokens: int | None) -> Engine:
    """Our engine with these float32 or bfloat16 weights, computing in `dtype`: any name that settings take."""
    precision = pick_precision(dtype, weights.embedding.device)
    model = Model(config, in_dtype(weights, precision.dtype), precision.project)
    engine = Engine(model, max_batch_tokens=max_batch_tokens, precision=precision, graphs=model.can_be_recorded)
    if engine.device.type == "cuda" and engine.dtype != torch.float32:  # that is only compared with
        engine.warmup()  # records the graphs
    return engine


def in_dtype(weights: Weights, dtype: torch.dtype) -> Weights:
    """The same weights, rounded; themselves where they are of that dtype."""

    def layer(one: LayerWeights) -> LayerWeights:
        return replace(one, **{field.name: getattr(one, field.name).to(dtype) for field in fields(one)})

    return Weights(weights.embedding.to(dtype), tuple(map(layer, weights.layers)), weights.norm.to(dtype))


def lowest_cosine(found: Vectors, expected: Vectors) -> float:
    """Of any row to the one in its place; both are normalised."""
    return float((found.astype(np.float64) * expected).sum(axis=1).min())


def best_batch_size(
    run: Contestant, texts: list[str], sizes: Sequence[int], seconds: Callable[[Callable[[], object]], float]
) -> int:
    """The fastest of `sizes` by one call each, the smaller first, until one is much slower; those that don't fit into memory, or are
    beyond the first that holds all texts, are passed over. Raises `torch.OutOfMemoryError` where not even the smallest fits."""
    trial: dict[int, float] = {}
    for size in sorted(sizes):
        try:
            trial[size] = seconds(lambda size=size: run(texts, size))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            if not trial:
                raise
            torch.cuda.empty_cache()
            break
        if size >= len(texts) or trial[size] > _MUCH_SLOWER * min(trial.values()):
            break
    return min(trial, key=lambda size: trial[size])
