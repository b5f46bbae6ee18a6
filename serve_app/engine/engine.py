"""The engine: token ids in, normalised vectors out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from serve_app.engine import floor, heap, load_check
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.device import pick_device
from serve_app.engine.graphs import Graphs
from serve_app.engine.memory import largest_that_fits
from serve_app.engine.model import Model
from serve_app.engine.model_config import QWEN3_EMBEDDING, ModelConfig
from serve_app.engine.passes import passes
from serve_app.engine.precision import Precision, cpu_advice, pick_precision
from serve_app.engine.prefix_cache import PrefixCache
from serve_app.engine.projection import Dense
from serve_app.engine.random_weights import random_weights
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.stored import load_weights
from serve_app.engine.token_ids import check_token_ids
from serve_app.engine.tokenizer import Tokenizer
from serve_app.engine.transfer import to_host
from serve_app.errors import EngineError, NonFiniteError
from serve_app.types import TokenIds, Vectors

log = logging.getLogger(__name__)

_CPU_BATCH_TOKENS = 2048
_CUDA_BATCH_TOKENS = 16384
_CPU_PREFIX_MB = 128
CUDA_PREFIX_MB = 256


class Encoded(NamedTuple):
    """What `Engine.encode_checked` makes of inputs: `vectors` float32 `[n, hidden]`, zero in the rows `bad` (ascending); and how many
    tokens of each input were `reused` instead of computed."""

    vectors: Vectors
    bad: list[int]
    reused: list[int]


class Engine:
    """A model on a device. Threads may share one engine; their batches then compete for the device.

    Attributes: `model`; `config`; `checkpoint`, None for random weights; `device`; `dtype` of the states between products;
    `precision`; `fidelity`, how near quantised weights come to their originals, None where none were compared; `hidden_size`;
    `max_batch_tokens`, the tokens that one forward pass computes (a single longer input still runs, alone);
    `prefixes`, what it keeps of prefixes that inputs share.
    """

    def __init__(
        self,
        model: Model,
        checkpoint: Checkpoint | None = None,
        max_batch_tokens: int | None = None,
        prefix_cache_mb: int | None = None,
        precision: Precision | None = None,
        *,
        graphs: bool = False,
    ) -> None:
        self.model = model
        self.checkpoint = checkpoint
        self.config: ModelConfig = model.config
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.precision = precision or pick_precision(model.dtype, model.device)
        self.fidelity: floor.Fidelity | None = None
        self.hidden_size: int = model.config.hidden_size
        default = _CUDA_BATCH_TOKENS if self.device.type == "cuda" else _CPU_BATCH_TOKENS
        self.max_batch_tokens: int = max_batch_tokens or default
        token_bytes = 2 * self.config.num_hidden_layers * self.config.key_value_size * self.dtype.itemsize
        self.prefixes = PrefixCache(model.prefix, token_bytes, 0)
        self.keep_prefixes(prefix_cache_mb)
        self._graphs = Graphs(model) if graphs else None

    def keep_prefixes(self, megabytes: int | None) -> None:
        """Keep shared prefixes in so much memory; 0 for none, None for the device's default, which is none where the model's attention
        failed its check behind prefixes."""
        default = (CUDA_PREFIX_MB if self.device.type == "cuda" else _CPU_PREFIX_MB) if self.model.goes_on else 0
        self.prefixes.resize((default if megabytes is None else megabytes) * 2**20)

    @classmethod
    def load(
        cls,
        model: str,
        revision: str | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_batch_tokens: int | None = None,
        prefix_cache_mb: int | None = None,
        threads: int | None = None,
        verify: bool = True,
        graphs: bool = True,
        invariant: bool = False,
    ) -> Engine:
        """Load `model`: a local folder, a Hugging Face id, or `embedserve/demo`.

        `device` None is CUDA if there is one, else CPU; `dtype` None is bfloat16 on CUDA, float32 on CPU; `"int8"` (CPU) and
        `"fp8"` (CUDA) quantise all products. `threads` is the CPU threads of one forward pass, set for the whole
        process. With `verify`, the model must pass `load_check`, and a quantised one give vectors near to those of its weights.
        With `graphs`, small batches are launched as CUDA graphs once the engine is warmed up,
        where attention allows it. `invariant` as in `Model`: it does without graphs and shared prefixes. Raises
        `CheckpointError` for files that can't be served, `EngineError` for a device or dtype that can't be used.
        """
        where = pick_device(device)
        precision = pick_precision(dtype, where)
        if where.type == "cpu" and (advice := cpu_advice(precision)) is not None:
            serious, text = advice
            log.log(logging.WARNING if serious else logging.INFO, text)
        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = Checkpoint.read(resolve(model, revision))
        weights = load_weights(checkpoint.path, checkpoint.config, where, precision.dtype)
        # Which products are faster is measured at each start: not where the last bit counts.
        project = Dense if invariant and not precision.quantised else precision.project
        model_ = Model(checkpoint.config, weights, project, invariant=invariant)
        graphs = graphs and not invariant and model_.can_be_recorded
        engine = cls(model_, checkpoint, max_batch_tokens, prefix_cache_mb, precision, graphs=graphs)
        if verify and precision.quantised:
            tokenizer = Tokenizer.read(checkpoint.path)
            reference = partial(floor.reference_vectors, checkpoint.config, weights)
            engine.fidelity = floor.hold(precision.name, tokenizer.encode_batch, engine.encode, reference)
            log.info("%s in %s: %s", checkpoint.name, precision.name, engine.fidelity)
        if verify:
            load_check.hold(engine, checkpoint)
        heap.trim()
        return engine

    @classmethod
    def random(
        cls,
        size: str | ModelConfig,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_batch_tokens: int | None = None,
        prefix_cache_mb: int | None = None,
        seed: int = 0,
    ) -> Engine:
        """Seeded random weights at a published size (`"0.6B"`, `"4B"`, `"8B"`) or any shapes, made on the
        device."""
        if isinstance(size, str) and size not in QWEN3_EMBEDDING:
            raise EngineError(f"size {size!r} isn't one of {', '.join(QWEN3_EMBEDDING)}")
        config = QWEN3_EMBEDDING[size] if isinstance(size, str) else size
        where = pick_device(device)
        precision = pick_precision(dtype, where)
        weights = random_weights(config, where, precision.dtype, seed)
        return cls(Model(config, weights, precision.project), None, max_batch_tokens, prefix_cache_mb, precision)

    def encode(self, token_ids: Sequence[TokenIds]) -> Vectors:
        """Embed inputs (each integer `[tokens]`): float32 `[n, hidden]`, L2-normalised, in the order given.

        Raises `EngineError` naming an input that is empty, too long or has ids outside the vocabulary, and
        `NonFiniteError` naming the inputs whose vectors aren't finite.
        """
        vectors, bad, _ = self.encode_checked(token_ids)
        if bad:
            raise NonFiniteError(f"the model gave NaN or infinity for inputs {bad}; their vectors are withheld")
        return vectors

    def encode_checked(self, token_ids: Sequence[TokenIds]) -> Encoded:
        """As `encode`, but non-finite vectors come back as zeros, with the indices of their inputs."""
        return self.launch(token_ids)()

    def launch(self, token_ids: Sequence[TokenIds], tenants: Sequence[int] = ()) -> Callable[[], Encoded]:
        """Start what `encode_checked` does; what is returned waits for it and gives it, on any thread.

        `tenants` has one for each input, or nothing: prefixes are shared within a tenant only. On CUDA this only puts work into the
        device's queue, behind what is there; on CPU it computes.
        """
        check_token_ids(token_ids, self.config)
        shared, reused = self.prefixes.share(token_ids, tenants)
        before = [prefix.tokens if prefix else 0 for prefix in shared]
        launched = []
        for batch in self.batches([len(ids) for ids in token_ids], shared):
            own = [token_ids[i][before[i] :] for i in batch]
            launched.append((batch, to_host(self._forward(own, [shared[i] for i in batch]))))

        def arrived() -> Encoded:
            vectors = np.empty((len(token_ids), self.hidden_size), dtype=np.float32)
            for batch, rows in launched:
                vectors[batch] = rows()
            bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
            vectors[bad] = 0.0
            return Encoded(vectors, bad, reused)

        return arrived

    def launch_tokens(self, token_ids: Sequence[TokenIds]) -> Callable[[], list[Vectors]]:
        """Start computing the vectors of all tokens: for each input float32 `[tokens, hidden]`, as the last norm leaves them.

        Numbers that aren't finite are the caller's to find. Nothing is reused from inputs before: the tokens of a prefix have
        vectors too. A pass has a quarter of the tokens of others, for its result takes memory. Raises as `encode` does.
        """
        check_token_ids(token_ids, self.config)
        lengths = [len(ids) for ids in token_ids]
        launched = []
        for batch in self.batches(lengths, most=self.max_batch_tokens // 4):
            states = self.model.every_token(self.model.pack([token_ids[i] for i in batch]))
            launched.append((batch, to_host(states)))

        def arrived() -> list[Vectors]:
            found: dict[int, Vectors] = {}
            for batch, states in launched:
                ends = np.cumsum([lengths[i] for i in batch])
                found.update(zip(batch, np.split(states(), ends[:-1]), strict=True))
            return [found[i] for i in range(len(token_ids))]

        return arrived

    def _forward(self, token_ids: list[TokenIds], prefixes: list[SharedPrefix | None]) -> torch.Tensor:
        if self._graphs is not None and not any(prefixes):
            rows = self._graphs.forward(token_ids)
            if rows is not None:
                return rows
        return self.model.forward(self.model.pack(token_ids, prefixes))

    def warmup(self) -> None:
        """Run a short and a mixed batch, one that goes on from a prefix if any are kept, record graphs, and on CUDA run the largest
        batch beside them, so that no request pays for first-time work.

        If the device's memory doesn't hold the largest batch, `max_batch_tokens` becomes what it holds.
        """
        ids = np.arange(self.config.max_position_embeddings, dtype=np.int32) % self.config.vocab_size
        self.encode([ids[:1]])
        self.encode([ids[:length] for length in (1, 8, 32, 128)])
        if self.prefixes.capacity:
            self._forward([ids[:8], ids[:8]], [self.model.prefix(ids[:8]), None]).cpu()
        if self._graphs is not None:
            self._graphs.prepare()
        if self.device.type == "cuda":
            self.max_batch_tokens = largest_that_fits(lambda tokens: self.encode([ids[:tokens]]), self.max_batch_tokens)

    def batches(
        self, lengths: Sequence[int], prefixes: Sequence[SharedPrefix | None] = (), most: int | None = None
    ) -> Iterator[list[int]]:
        """See `passes`; `most` None is `max_batch_tokens`."""
        return passes(lengths, prefixes, self.max_batch_tokens if most is None else most)
