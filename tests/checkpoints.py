"""Seeded checkpoints in several shapes, made once a test run."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from serve_app.engine.demo import DEMO_CONFIG, make_checkpoint
from serve_app.engine.model_config import ModelConfig
from serve_app.types import TokenIds

SHAPES = {
    "demo": DEMO_CONFIG,
    "no-sharing": ModelConfig(640, 96, 160, 2, 6, 6, 16, rope_theta=1e4, tie_word_embeddings=False, dtype="float32"),
    "one-key-head": ModelConfig(512, 64, 96, 1, 8, 1, 32, dtype="float32"),
    "deep-wide-heads": ModelConfig(768, 192, 320, 14, 4, 2, 96, rms_norm_eps=1e-5, dtype="bfloat16"),
}
"""Query heads a key head: 2, 1, 8, 2; head dimension times heads is never the hidden size but for "no-sharing"."""


@cache
def checkpoint(shape: str = "demo", *, shards: int = 1, prefix: str = "") -> Path:
    """The folder of a checkpoint that tests may read but not change."""
    folder = Path(tempfile.mkdtemp(prefix="embedserve-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_checkpoint(folder / shape, SHAPES[shape], seed=7, shards=shards, prefix=prefix)


def copy_of(folder: Path, to: Path) -> Path:
    """A checkpoint of one's own to break."""
    return Path(shutil.copytree(folder, to / folder.name))


def edit_json(file: Path, **fields: Any) -> None:
    """Set fields of a JSON object file; None of a field named in `fields` is written as null."""
    value = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(value | fields), encoding="utf-8")


def remove_field(file: Path, name: str) -> None:
    """Take a field out of a JSON object file."""
    value = json.loads(file.read_text(encoding="utf-8"))
    del value[name]
    file.write_text(json.dumps(value), encoding="utf-8")


def random_ids(lengths: list[int], vocab_size: int, seed: int = 0) -> list[TokenIds]:
    """Seeded token ids of these lengths."""
    random = np.random.default_rng(seed)
    return [random.integers(0, vocab_size, size=length).astype(np.int32) for length in lengths]


def with_shape(**fields: Any) -> ModelConfig:
    """The demo's shapes with some of them changed."""
    return replace(DEMO_CONFIG, **fields)
