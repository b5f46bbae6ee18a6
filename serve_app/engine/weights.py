"""A checkpoint's weights in the layout the forward pass multiplies with: query, key and value in one
matrix, gate and up in another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from serve_app.engine.model_config import ModelConfig
from serve_app.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_STORED_DTYPES = {"F32", "BF16", "F16"}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; `H` hidden, `Q` all query heads, `K` all key heads, `I` intermediate, `D` head dimension."""

    input_norm: Tensor  # [H]
    qkv: Tensor  # [Q + 2K, H]
    query_norm: Tensor  # [D]
    key_norm: Tensor  # [D]
    output: Tensor  # [H, Q]
    mlp_norm: Tensor  # [H]
    gate_up: Tensor  # [2I, H]
    down: Tensor  # [H, I]


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of one model, of one dtype on one device."""

    embedding: Tensor  # [vocab, H]
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [H]


def empty_weights(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Weights:
    """Uninitialised weights of the shapes of `config`."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    hidden, query, kv = config.hidden_size, config.query_size, config.key_value_size
    layers = tuple(
        LayerWeights(
            input_norm=empty(hidden),
            qkv=empty(query + 2 * kv, hidden),
            query_norm=empty(config.head_dim),
            key_norm=empty(config.head_dim),
            output=empty(hidden, query),
            mlp_norm=empty(hidden),
            gate_up=empty(2 * config.intermediate_size, hidden),
            down=empty(hidden, config.intermediate_size),
        )
        for _ in range(config.num_hidden_layers)
    )
    return Weights(empty(config.vocab_size, hidden), layers, empty(hidden))


def named_tensors(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """The weights under the names that checkpoints use, without prefix: views, so that writing to one fills
    the weights."""
    kv = config.key_value_size
    named = {"embed_tokens.weight": weights.embedding, "norm.weight": weights.norm}
    for i, layer in enumerate(weights.layers):
        query, key, value = layer.qkv.tensor_split((config.query_size, config.query_size + kv))
        gate, up = layer.gate_up.chunk(2)
        parts = {
            "input_layernorm": layer.input_norm,
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.q_norm": layer.query_norm,
            "self_attn.k_norm": layer.key_norm,
            "self_attn.o_proj": layer.output,
            "post_attention_layernorm": layer.mlp_norm,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.down,
        }
        named.update({f"layers.{i}.{name}.weight": tensor for name, tensor in parts.items()})
    return named


def load_weights(path: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Weights:
    """Read the safetensors files in the checkpoint folder `path`, memory-mapped, straight into their place
    on `device`.

    Raises `CheckpointError`, naming file and tensor, for missing or unknown tensors, shapes that differ
    from `config`, stored dtypes other than float32, bfloat16 and float16, and files that can't be read.
    """
    weights = empty_weights(config, device, dtype)
    missing = named_tensors(weights, config)
    unknown: list[str] = []
    for file in _weight_files(path):
        try:
            with safe_open(file, framework="pt") as tensors:
                for stored in tensors.keys():  # noqa: SIM118 - not a dict
                    name = stored.removeprefix("model.")
                    destination = missing.pop(name, None)
                    if destination is not None:
                        _check(file, stored, tensors.get_slice(stored), destination)
                        destination.copy_(tensors.get_tensor(stored))
                    elif name != "lm_head.weight" and not name.endswith("rotary_emb.inv_freq"):
                        unknown.append(stored)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: not readable as safetensors ({error})") from error
    if missing:
        raise CheckpointError(f"{path}: {_listed(list(missing))} missing from the weights")
    if unknown:
        raise CheckpointError(f"{path}: {_listed(unknown)} in the weights, but not in a Qwen3 model of these shapes")
    return weights


def _weight_files(path: Path) -> list[Path]:
    index = path / _INDEX
    if not index.is_file():
        if not (path / "model.safetensors").is_file():
            raise CheckpointError(f"{path}: neither model.safetensors nor {_INDEX} is there; only safetensors is read")
        return [path / "model.safetensors"]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index with a weight_map ({error!r})") from error
    files = [path / name for name in sorted(names)]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{index}: names {_listed(absent)}, which isn't there")
    return files


def _check(file: Path, name: str, stored: object, destination: Tensor) -> None:
    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()  # type: ignore[attr-defined]
    if shape != tuple(destination.shape):
        raise CheckpointError(f"{file}: {name} has shape {list(shape)}, config.json asks for {list(destination.shape)}")
    if dtype not in _STORED_DTYPES:
        raise CheckpointError(f"{file}: {name} is stored as {dtype}, only F32, BF16 and F16 are read")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more
