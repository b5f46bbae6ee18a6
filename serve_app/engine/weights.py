"""A checkpoint's weights in the layout the forward pass multiplies with: query, key and value in one
matrix, gate and up in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.engine.model_config import ModelConfig


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
    """All weights of one model on one device, of one dtype but for the embedding, whose rows are cast when they're looked up.

    `layers` may be read from files whenever one is asked for: keep what is needed again.
    """

    embedding: Tensor  # [vocab, H]
    layers: Sequence[LayerWeights]
    norm: Tensor  # [H]


def empty_layer(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> LayerWeights:
    """One uninitialised layer of the shapes of `config`."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    hidden, query, kv = config.hidden_size, config.query_size, config.key_value_size
    return LayerWeights(
        input_norm=empty(hidden),
        qkv=empty(query + 2 * kv, hidden),
        query_norm=empty(config.head_dim),
        key_norm=empty(config.head_dim),
        output=empty(hidden, query),
        mlp_norm=empty(hidden),
        gate_up=empty(2 * config.intermediate_size, hidden),
        down=empty(hidden, config.intermediate_size),
    )


def empty_weights(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Weights:
    """Uninitialised weights of the shapes of `config`."""
    embedding = torch.empty(config.vocab_size, config.hidden_size, device=device, dtype=dtype)
    layers = tuple(empty_layer(config, device, dtype) for _ in range(config.num_hidden_layers))
    return Weights(embedding, layers, torch.empty(config.hidden_size, device=device, dtype=dtype))


def named_parts(layer: LayerWeights, config: ModelConfig) -> dict[str, Tensor]:
    """A layer's weights under the names that checkpoints use, without the layer's: views, so that writing to
    one fills the weights."""
    kv = config.key_value_size
    query, key, value = layer.qkv.tensor_split((config.query_size, config.query_size + kv))
    gate, up = layer.gate_up.chunk(2)
    return {
        "input_layernorm.weight": layer.input_norm,
        "self_attn.q_proj.weight": query,
        "self_attn.k_proj.weight": key,
        "self_attn.v_proj.weight": value,
        "self_attn.q_norm.weight": layer.query_norm,
        "self_attn.k_norm.weight": layer.key_norm,
        "self_attn.o_proj.weight": layer.output,
        "post_attention_layernorm.weight": layer.mlp_norm,
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": layer.down,
    }


def named_tensors(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """The weights under the names that checkpoints use, without prefix: views of those that are in memory."""
    named = {"embed_tokens.weight": weights.embedding, "norm.weight": weights.norm}
    for i, layer in enumerate(weights.layers):
        named |= {f"layers.{i}.{name}": tensor for name, tensor in named_parts(layer, config).items()}
    return named
