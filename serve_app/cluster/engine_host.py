"""Loads the engine inside a replica and puts the batcher in front of it."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch

from serve_app.cluster.cores import pin_to_own_cores, threads_for, usable_cores
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.served import fingerprint
from serve_app.config import Settings
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.device import memory_bytes
from serve_app.engine.engine import Engine
from serve_app.engine.memory import HalvingEncoder
from serve_app.engine.queue import QueuePolicy
from serve_app.errors import EngineError, NonFiniteError
from serve_app.telemetry.logs import configure_logging
from serve_app.types import TokenIds


def load_batcher(settings: Settings, num_gpus: float) -> Loaded:
    """A started batcher over a loaded, checked and warmed-up engine.

    Raises `CheckpointError` if the model can't be served.
    """
    logger = configure_logging()
    device = "cuda" if num_gpus else "cpu"
    logger.info("Loading %s on %s", settings.model, device)
    folder = resolve(settings.model, settings.revision)
    threads = settings.threads or threads_for(
        Checkpoint.read(folder).config.linear_parameters, settings.most_replicas, settings.num_cpus, usable_cores()
    )
    if settings.pin_cores and not num_gpus:
        cores = pin_to_own_cores(threads)
        logger.info("%d threads on cores %s", threads, sorted(cores) or "of any number: too few are free for a claim")
    engine = Engine.load(
        str(folder),
        device=device,
        dtype=None if settings.dtype == "auto" else settings.dtype,
        prefix_cache_mb=settings.batch.prefix_cache_mb,
        threads=threads,
    )
    logger.info("Warming up %s (%s, %s)", settings.model, engine.device, engine.dtype)
    started = time.monotonic()
    engine.warmup()
    warmup_seconds = time.monotonic() - started
    if engine.checkpoint is not None and engine.checkpoint.demo:
        logger.warning(
            "This is the demo checkpoint: its vectors are well-formed and mean nothing. Choose a model for real use."
        )
    logger.info("Embedding model loaded successfully: %s", settings.model)

    def lower(tokens: int) -> None:
        batcher.max_batch_tokens = min(batcher.max_batch_tokens, tokens)

    batcher = Batcher(
        HalvingEncoder(
            partial(encode_batch, engine), hidden_size=engine.hidden_size, lower=lower, cost=engine.prefixes.cost
        ),
        hidden_size=engine.hidden_size,
        max_batch_tokens=settings.batch.max_tokens or engine.max_batch_tokens,
        max_batch_inputs=settings.batch.max_inputs,
        policy=QueuePolicy(bulk_patience_s=settings.batch.bulk_patience_seconds),
        cost=engine.prefixes.cost,
        share_duplicates=settings.batch.share_duplicates,
    )
    on_gpu = engine.device.type == "cuda"
    return Loaded(
        batcher,
        fingerprint(settings, folder),
        warmup_seconds,
        torch.cuda.get_device_name(engine.device) if on_gpu else "",
        str(engine.dtype).removeprefix("torch."),
        partial(memory_bytes, engine.device) if on_gpu else dict,
        engine.keep_prefixes,
    )


def encode_batch(engine: Engine, token_ids: list[TokenIds]) -> EncodedBatch:
    """One batch through the engine; an input that it refuses, or whose vector isn't finite, fails alone."""
    try:
        vectors, bad, reused = engine.encode_checked(token_ids)
    except EngineError as error:
        if len(token_ids) == 1:
            return EncodedBatch(np.zeros((1, engine.hidden_size), np.float32), {0: error})
        alone = [encode_batch(engine, [ids]) for ids in token_ids]
        failed = {row: one.failed[0] for row, one in enumerate(alone) if one.failed}
        reused = [tokens for one in alone for tokens in one.reused or [0]]
        return EncodedBatch(np.concatenate([one.vectors for one in alone]), failed, reused)
    failed = {row: NonFiniteError("the model gave NaN or infinity for this input") for row in bad}
    return EncodedBatch(vectors, failed, reused)
