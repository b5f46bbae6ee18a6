"""The engine: token ids in, normalised vectors out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from serve_app.engine import golden
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.device import pick_device, pick_dtype
from serve_app.engine.model import Model
from serve_app.engine.model_config import QWEN3_EMBEDDING, ModelConfig
from serve_app.engine.random_weights import random_weights
from serve_app.engine.weights import load_weights
from serve_app.errors import EngineError, NonFiniteError
from serve_app.types import TokenIds, Vectors

log = logging.getLogger(__name__)

_CPU_BATCH_TOKENS = 2048
_CUDA_BATCH_TOKENS = 16384
_TOLERANCE = {torch.float32: 3e-3, torch.bfloat16: 1e-2}


class Engine:
    """A model on a device. Threads may share one engine; their batches then compete for the device.

    Attributes: `model`; `config`; `checkpoint`, None for random weights; `device`; `dtype`; `hidden_size`;
    `max_batch_tokens`, the tokens of one forward pass (a single longer input still runs, alone).
    """

    def __init__(self, model: Model, checkpoint: Checkpoint | None = None, max_batch_tokens: int | None = None) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.config: ModelConfig = model.config
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.hidden_size: int = model.config.hidden_size
        default = _CUDA_BATCH_TOKENS if self.device.type == "cuda" else _CPU_BATCH_TOKENS
        self.max_batch_tokens: int = max_batch_tokens or default

    @classmethod
    def load(
        cls,
        model: str,
        revision: str | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_batch_tokens: int | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> Engine:
        """Load `model`: a local folder, a Hugging Face id, or `embedserve/demo`.

        `device` None is CUDA if there is one, else CPU; `dtype` None is bfloat16 on CUDA, float32 on CPU.
        `threads` is the CPU threads of one forward pass, set for the whole process. With `verify`, a
        published checkpoint must give its published scores. Raises `CheckpointError` for files that can't
        be served, `EngineError` for a device or dtype that can't be used.
        """
        where = pick_device(device)
        kind = pick_dtype(dtype, where)
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = Checkpoint.read(resolve(model, revision))
        weights = load_weights(checkpoint.path, checkpoint.config, where, kind)
        engine = cls(Model(checkpoint.config, weights), checkpoint, max_batch_tokens)
        if verify and golden.verify(checkpoint, engine.encode, _TOLERANCE[kind]):
            log.info("%s gives its published scores", checkpoint.name)
        return engine

    @classmethod
    def random(
        cls,
        size: str | ModelConfig,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_batch_tokens: int | None = None,
        seed: int = 0,
    ) -> Engine:
        """Seeded random weights at a published size (`"0.6B"`, `"4B"`, `"8B"`) or any shapes, made on the
        device."""
        if isinstance(size, str) and size not in QWEN3_EMBEDDING:
            raise EngineError(f"size {size!r} isn't one of {', '.join(QWEN3_EMBEDDING)}")
        config = QWEN3_EMBEDDING[size] if isinstance(size, str) else size
        where = pick_device(device)
        weights = random_weights(config, where, pick_dtype(dtype, where), seed)
        return cls(Model(config, weights), None, max_batch_tokens)

    def encode(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """Embed inputs (each integer `[tokens]`): float32 `[n, hidden]`, L2-normalised, in the order given.

        Raises `EngineError` naming an input that is empty, too long or has ids outside the vocabulary, and
        `NonFiniteError` naming the inputs whose vectors aren't finite.
        """
        vectors, bad = self.encode_checked(token_ids)
        if bad:
            raise NonFiniteError(f"the model gave NaN or infinity for inputs {bad}; their vectors are withheld")
        return vectors

    def encode_checked(self, token_ids: Sequence[TokenIds]) -> tuple[Vectors, list[int]]:
        """As `encode`, but non-finite vectors come back as zeros, with the indices of their inputs,
        ascending."""
        for index, ids in enumerate(token_ids):
            self._check(index, ids)
        vectors = np.empty((len(token_ids), self.hidden_size), dtype=np.float32)
        done = []
        for batch in self.batches([len(ids) for ids in token_ids]):
            packed = torch.from_numpy(np.concatenate([token_ids[i] for i in batch]).astype(np.int64))
            lengths = [len(token_ids[i]) for i in batch]
            done.append((batch, self.model.forward(packed.to(self.device), lengths)))
        for batch, rows in done:  # only now, so that the device isn't waited for between batches
            vectors[batch] = rows.cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
        vectors[bad] = 0.0
        return vectors, bad

    def warmup(self) -> None:
        """Run a short and a mixed batch, on CUDA also the largest, so that no request pays for first-time work."""
        limit = min(self.max_batch_tokens, self.config.max_position_embeddings)
        ids = np.arange(limit, dtype=np.int32) % self.config.vocab_size
        self.encode([ids[:1]])
        self.encode([ids[:length] for length in (1, 8, 32, 128)])
        if self.device.type == "cuda":
            self.encode([ids])

    def _check(self, index: int, ids: TokenIds) -> None:
        limit = self.config.max_position_embeddings
        if ids.ndim != 1 or not 1 <= len(ids) <= limit:
            raise EngineError(f"input {index} has shape {list(ids.shape)}, 1 to {limit} token ids are needed")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise EngineError(f"input {index} has token id {wrong}, outside the vocabulary of {self.config.vocab_size}")

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """How inputs of these lengths are put into forward passes: their indices, shortest first.

        Sorting makes equal lengths neighbours, which attention on CPU wants.
        """
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batch and tokens + lengths[index] > self.max_batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += lengths[index]
        if batch:
            yield batch
