"""Loads the engine inside a replica and puts the batcher in front of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from serve_app.cluster.cores import pin_to_own_cores, threads_for, usable_cores
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.served import fingerprint
from serve_app.config import Settings, default_tokens
from serve_app.engine.batch import EncodedBatch, Pending
from serve_app.engine.batcher import Batcher
from serve_app.engine.checkpoint import Checkpoint, ModelConfig, resolve
from serve_app.engine.device import memory_bytes, pick_device
from serve_app.engine.device_budget import budget_batches
from serve_app.engine.engine import CUDA_PREFIX_MB, Engine
from serve_app.engine.graphs import GRAPH_BYTES
from serve_app.engine.lost import watched
from serve_app.engine.memory import HalvingEncoder
from serve_app.engine.precision import linear_itemsize
from serve_app.engine.queue import QueuePolicy
from serve_app.engine.token_vectors import TokenVectorEncoder
from serve_app.errors import EngineError, NonFiniteError
from serve_app.telemetry.logs import configure_logging
from serve_app.types import TokenIds

Granted = Callable[[int | None], int]
"""The most tokens of a batch, by what `batch.max_tokens` asks for."""


def load_batcher(settings: Settings, num_gpus: float) -> Loaded:
    """A started batcher over a loaded, checked and warmed-up engine.

    Raises `CheckpointError` if the model can't be served, `EngineError` if the device can't do what the settings ask for.
    """
    logger = configure_logging(settings.log.format)
    logger.info("Loading %s on %s", settings.model, "cuda" if num_gpus else "cpu")
    folder = resolve(settings.model, settings.revision)
    config = Checkpoint.read(folder).config
    granted = memory_budget(settings, config, num_gpus)
    engine = load_engine(settings, folder, config, granted, num_gpus, logger)
    logger.info("Warming up %s (%s, %s)", settings.model, engine.device, engine.precision.name)
    started = time.monotonic()
    engine.warmup()
    warmup_seconds = time.monotonic() - started
    if engine.checkpoint is not None and engine.checkpoint.demo:
        logger.warning(
            "This is the demo checkpoint, a toy trained on a few thousand sentences. Choose a model for real use."
        )
    logger.info("Embedding model loaded successfully: %s", settings.model)
    on_gpu = engine.device.type == "cuda"
    return Loaded(
        batcher_over(engine, settings, granted),
        fingerprint(settings, folder),
        warmup_seconds,
        torch.cuda.get_device_name(engine.device) if on_gpu else "",
        engine.precision.name,
        partial(memory_bytes, engine.device) if on_gpu else dict,
        engine.keep_prefixes,
        granted,
    )


def load_engine(
    settings: Settings,
    folder: Path,
    config: ModelConfig,
    granted: Granted,
    num_gpus: float,
    logger: logging.Logger,
) -> Engine:
    """The engine, checked, with the threads and cores that the settings give it. Raises as `load_batcher` does."""
    threads = settings.threads or threads_for(
        config.linear_parameters, settings.most_replicas, settings.num_cpus, usable_cores()
    )
    if settings.pin_cores and not num_gpus:
        cores = pin_to_own_cores(threads)
        logger.info("%d threads on cores %s", threads, sorted(cores) or "of any number: too few are free for a claim")
    return Engine.load(
        str(folder),
        device="cuda" if num_gpus else "cpu",
        dtype=None if settings.dtype == "auto" else settings.dtype,
        max_batch_tokens=granted(settings.batch.max_tokens) if num_gpus else None,
        prefix_cache_mb=settings.batch.prefix_cache_mb,
        threads=threads,
        graphs=settings.cuda_graphs,
        invariant=settings.batch_invariant,
    )


def batcher_over(engine: Engine, settings: Settings, granted: Granted) -> Batcher:
    """A started batcher, whose batches get smaller where the engine's memory turns out not to hold them."""
    on_gpu = engine.device.type == "cuda"

    def lower(tokens: int) -> None:
        batcher.max_batch_tokens = min(batcher.max_batch_tokens, tokens)

    batcher = Batcher(
        HalvingEncoder(
            watched(partial(launch_batch, engine), engine.device) if on_gpu else partial(encode_batch, engine),
            hidden_size=engine.hidden_size,
            lower=lower,
            cost=engine.prefixes.cost,
        ),
        hidden_size=engine.hidden_size,
        max_batch_tokens=engine.max_batch_tokens if on_gpu else granted(settings.batch.max_tokens),
        max_batch_inputs=settings.batch.max_inputs,
        policy=QueuePolicy(bulk_patience_s=settings.batch.bulk_patience_seconds),
        cost=engine.prefixes.cost,
        depth=2 if on_gpu else 1,
        share_duplicates=settings.batch.share_duplicates,
        run_tokens=TokenVectorEncoder(
            watched(engine.launch_tokens, engine.device),
            engine.hidden_size,
            torch.OutOfMemoryError,
            torch.cuda.empty_cache,
        ),
    )
    return batcher


def memory_budget(settings: Settings, config: ModelConfig, num_gpus: float) -> Granted:
    """The most tokens of a batch, by what `batch.max_tokens` asks for: on a GPU no more than its memory holds.

    Raises `EngineError` if the model, or what the settings ask for, doesn't fit.
    """
    default = default_tokens(num_gpus)
    if not num_gpus:
        return lambda asked: asked or default
    device = pick_device("cuda")
    batch = settings.batch
    prefix_mb = CUDA_PREFIX_MB if batch.prefix_cache_mb is None else batch.prefix_cache_mb
    return budget_batches(
        config,
        device,
        torch.float32 if settings.dtype == "float32" else torch.bfloat16,
        share=num_gpus,
        prefix_cache=0 if settings.batch_invariant else prefix_mb * 2**20,
        graphs=GRAPH_BYTES if settings.cuda_graphs and not settings.batch_invariant else 0,
        asked=batch.max_tokens,
        default=default,
        inputs=batch.max_inputs,
        longest_input=min(settings.limits.max_input_tokens, config.max_position_embeddings),
        linear_itemsize=linear_itemsize(settings.dtype),
        invariant=settings.batch_invariant,
    )


def encode_batch(engine: Engine, token_ids: list[TokenIds], tenants: Sequence[int] = (), /) -> EncodedBatch:
    """One batch through the engine; an input that it refuses, or whose vector isn't finite, fails alone."""
    return launch_batch(engine, token_ids, tenants)()


def launch_batch(engine: Engine, token_ids: list[TokenIds], tenants: Sequence[int] = (), /) -> Pending:
    """Start what `encode_batch` does; what is returned waits for it."""
    try:
        launched = engine.launch(token_ids, tenants)
    except EngineError as error:
        if len(token_ids) == 1:
            alone = EncodedBatch(np.zeros((1, engine.hidden_size), np.float32), {0: error})
            return lambda: alone
        each = [launch_batch(engine, [ids], tenants[row : row + 1]) for row, ids in enumerate(token_ids)]
        return lambda: _joined([one() for one in each])

    def arrived() -> EncodedBatch:
        vectors, bad, reused = launched()
        failed: dict[int, Exception] = {
            row: NonFiniteError("the model gave NaN or infinity for this input") for row in bad
        }
        return EncodedBatch(vectors, failed, reused)

    return arrived


def _joined(alone: list[EncodedBatch]) -> EncodedBatch:
    failed = {row: one.failed[0] for row, one in enumerate(alone) if one.failed}
    reused = [tokens for one in alone for tokens in one.reused or [0]]
    return EncodedBatch(np.concatenate([one.vectors for one in alone]), failed, reused)
