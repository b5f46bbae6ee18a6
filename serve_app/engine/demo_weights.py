"""Weights as safetensors files, written without torch: given ones, or random ones from a seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve_app.engine.layout import tensor_shapes
from serve_app.engine.model_config import ModelConfig
from serve_app.errors import CheckpointError

Array = npt.NDArray[np.float32]


def write_weights(
    folder: Path, config: ModelConfig, end_of_text_id: int, *, seed: int, shards: int, prefix: str
) -> None:
    """Write `model.safetensors`, or `shards` files and their index, in the stored dtype of `config`."""
    if config.dtype not in {"float32", "bfloat16"}:
        raise CheckpointError(f"demo weights are stored as float32 or bfloat16, not {config.dtype}")
    random = np.random.default_rng(seed)
    tensors = {f"{prefix}{name}": _draw(random, name, shape) for name, shape in tensor_shapes(config).items()}
    # The same token ends every text; were its own embedding large, all texts would get nearly the same
    # vector.
    tensors[f"{prefix}embed_tokens.weight"][end_of_text_id] *= 0.05
    if prefix and not config.tie_word_embeddings:
        tensors["lm_head.weight"] = _draw(random, "lm_head.weight", (config.vocab_size, config.hidden_size))
    names = list(tensors)
    if shards == 1:
        write_file(folder / "model.safetensors", {name: tensors[name] for name in names}, config.dtype)
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        write_file(folder / file, {name: tensors[name] for name in part}, config.dtype)
        weight_map.update(dict.fromkeys(part, file))
    size = sum(tensor.size for tensor in tensors.values()) * (4 if config.dtype == "float32" else 2)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _draw(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    values = random.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.1) * values
    # Each linear layer keeps the size of what goes through it, so that depth neither drowns nor blows up a
    # text.
    return values if name.startswith("embed") else values * np.float32(shape[1] ** -0.5)


def write_file(file: Path, tensors: dict[str, Array], dtype: str) -> None:
    """Write `tensors`, stored as `dtype`, float32 or bfloat16. The format is written by hand: header length, JSON header, bytes.

    numpy has no bfloat16, and the library's own bytes interface changes between versions.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    encoded = [_encode(tensor, dtype) for tensor in tensors.values()]
    stored = "F32" if dtype == "float32" else "BF16"
    begin = 0
    for (name, tensor), data in zip(tensors.items(), encoded, strict=True):
        end = begin + len(data)
        header[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(encoded)


def _encode(tensor: Array, dtype: str) -> bytes:
    if dtype == "float32":
        return tensor.astype("<f4").tobytes()
    bits = tensor.astype("<f4").view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # to nearest, ties to even
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()
