"""What an Embedder has once its model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.config import default_tokens
from serve_app.engine.batcher import Batcher


@dataclass(frozen=True, slots=True)
class Loaded:
    """A started batcher over an engine that is ready.

    `model` is the model's fingerprint. `device` is the device's name as its vendor gives it, "" for a CPU, `dtype` what it computes
    in; `memory` gives bytes of the device's memory by kind, nothing for a CPU. `warmup_seconds` is the part of the loading that wasn't
    reading. `keep_prefixes` sets the memory for shared prefixes in MB, None for the device's default. `batch_tokens` is the most
    tokens of a batch, by what is asked for, None for the device's default.
    """

    batcher: Batcher
    model: str
    warmup_seconds: float = 0.0
    device: str = ""
    dtype: str = ""
    memory: Callable[[], dict[str, int]] = dict
    keep_prefixes: Callable[[int | None], None] = lambda megabytes: None
    batch_tokens: Callable[[int | None], int] = lambda asked: asked or default_tokens(0)
