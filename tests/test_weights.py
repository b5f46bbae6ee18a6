from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.demo import make_checkpoint
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.stored import load_weights
from serve_app.engine.weights import Weights, named_tensors
from serve_app.errors import CheckpointError
from tests.checkpoints import SHAPES, checkpoint, copy_of

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Weights, ModelConfig]:
    config = Checkpoint.read(folder).config
    return load_weights(folder, config, CPU, dtype), config


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """Set tensors of a folder's single weight file, or take them out with None."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in change.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, file)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of(checkpoint(), tmp_path)


def test_every_tensor_lands_in_its_place() -> None:
    weights, config = load(checkpoint())
    stored = load_file(checkpoint() / "model.safetensors")
    named = named_tensors(weights, config)
    assert named.keys() == stored.keys()
    assert all(torch.equal(named[name], stored[name]) for name in stored)
    layer = weights.layers[1]
    parts = [stored[f"layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(layer.qkv, torch.cat(parts))
    parts = [stored[f"layers.1.mlp.{name}_proj.weight"] for name in ("gate", "up")]
    assert torch.equal(layer.gate_up, torch.cat(parts))


@pytest.mark.parametrize(("shards", "prefix"), [(1, "model."), (3, ""), (4, "model.")])
def test_shards_and_prefix_make_no_difference(shards: int, prefix: str) -> None:
    shape = "no-sharing"  # untied: with the prefix there is an lm_head to ignore
    plain, config = load(checkpoint(shape))
    other, _ = load(checkpoint(shape, shards=shards, prefix=prefix))
    theirs = named_tensors(other, config)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in named_tensors(plain, config).items())


def test_stored_dtypes_are_cast() -> None:
    weights, _ = load(checkpoint("deep-wide-heads"))
    assert SHAPES["deep-wide-heads"].dtype == "bfloat16"
    assert weights.norm.dtype == weights.layers[0].qkv.dtype == torch.float32
    assert torch.equal(weights.norm, weights.norm.bfloat16().float())
    assert weights.embedding.dtype == torch.bfloat16  # cast when rows are looked up
    full = load(checkpoint(), torch.bfloat16)[0]
    assert full.embedding.dtype == full.norm.dtype == full.layers[0].qkv.dtype == torch.bfloat16


def test_half_precision_files_are_read(folder: Path) -> None:
    full = load_file(folder / "model.safetensors")["norm.weight"]
    rewrite(folder, {"norm.weight": full.half()})
    assert torch.equal(load(folder)[0].norm, full.half().float())


def test_refuses_missing_tensors(folder: Path) -> None:
    rewrite(folder, {"layers.2.self_attn.k_proj.weight": None, "norm.weight": None})
    with pytest.raises(CheckpointError, match=r"layers\.2\.self_attn\.k_proj\.weight, norm\.weight missing"):
        load(folder)


def test_refuses_another_shape(folder: Path) -> None:
    rewrite(folder, {"layers.0.mlp.down_proj.weight": torch.zeros(128, 255)})
    message = r"layers\.0\.mlp\.down_proj\.weight has shape \[128, 255\], config\.json asks for \[128, 256\]"
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_refuses_another_dtype(folder: Path) -> None:
    rewrite(folder, {"norm.weight": torch.zeros(128, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=r"norm\.weight is stored as I8"):
        load(folder)


def test_refuses_unknown_tensors(folder: Path) -> None:
    rewrite(folder, {"layers.0.self_attn.q_proj.bias": torch.zeros(256)})
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj\.bias in the weights, but not"):
        load(folder)


def test_refuses_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        load(folder)


def test_refuses_a_damaged_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        load(folder)


def test_refuses_a_broken_index(tmp_path: Path) -> None:
    folder = copy_of(checkpoint(shards=3), tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names model-00002-of-00003\.safetensors, which isn't there"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weights": {}}))
    with pytest.raises(CheckpointError, match="not an index with a weight_map"):
        load(folder)


def test_demo_bfloat16_rounds_as_torch_does(tmp_path: Path) -> None:
    config = SHAPES["one-key-head"]
    full = load_file(make_checkpoint(tmp_path / "full", config) / "model.safetensors")
    bfloat16 = ModelConfig(**{**{name: getattr(config, name) for name in config.__slots__}, "dtype": "bfloat16"})
    half = load_file(make_checkpoint(tmp_path / "half", bfloat16) / "model.safetensors")
    assert all(torch.equal(half[name], full[name].bfloat16()) for name in full)
    assert np.isfinite(full["embed_tokens.weight"].numpy()).all()
