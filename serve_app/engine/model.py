"""The forward pass of a Qwen3 embedding model over packed tokens: no padding in any linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.attention import GroupedAttention, Packing
from serve_app.engine.elementwise import pick_elementwise
from serve_app.engine.layer import FeedForward, LastLayer, Layer, Project
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.projection import Dense
from serve_app.engine.rope import RotaryTable
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.varlen_attention import VarlenAttention, varlen_runs_on
from serve_app.engine.weights import Weights

_MLP_TOKENS = 4096  # tokens in the feed-forward at once: it is the widest part, and sets the peak of memory


class Model:
    """Qwen3 with last-token pooling. Holds no state between calls, so that threads may share it."""

    def __init__(self, config: ModelConfig, weights: Weights, project: Project = Dense) -> None:
        """`project` makes the projections of the weights' matrices, one layer after another."""
        self.config = config
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self.embedding = weights.embedding
        self._norm = weights.norm.float()
        self._parts = pick_elementwise(self.device)
        self._rotary = RotaryTable(config, self.device, self.dtype)
        varlen = varlen_runs_on(self.device, self.dtype, config.head_dim)
        self._attention = VarlenAttention() if varlen else GroupedAttention()
        self._layers: list[Layer] = []
        for index, layer in enumerate(weights.layers):
            if index < config.num_hidden_layers - 1:
                self._layers.append(Layer.of(layer, config, project))
            else:
                self._last = LastLayer.of(layer, config, project)

    @torch.inference_mode()
    def forward(self, ids: Tensor, lengths: Sequence[int], prefixes: Sequence[SharedPrefix | None] = ()) -> Tensor:
        """Embed packed sequences.

        `ids` is int64 `[tokens]` on the model's device, the sequences one after another; `lengths` their
        tokens, each at least 1. `prefixes` has for every sequence the state of what comes before its ids, or
        None; without any it may be empty. Sequences of equal length and prefix should be neighbours: without
        the CUDA kernel, attention runs once for each run of them. Returns float32 `[n, hidden]`,
        L2-normalised.
        """
        packing = Packing(lengths, self.device, prefixes)
        x, run = self._through_layers(ids, packing)
        x = self._attend_pooled(x, *self._last_keys(x, run), run)
        self._feed_forward(x, self._last.feed_forward, run)
        pooled = x.float()
        pooled = self._parts.norm(pooled, self._norm, self.config.rms_norm_eps, out=pooled)
        return F.normalize(pooled, dim=-1)

    @torch.inference_mode()
    def prefix(self, ids: Tensor) -> SharedPrefix:
        """The state of one prefix, `ids` int64 `[tokens]` on the model's device, that sequences can go on from."""
        config = self.config
        shape = (config.num_hidden_layers, len(ids), config.num_key_value_heads, config.head_dim)
        kept = SharedPrefix(*(torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2)))
        x, run = self._through_layers(ids, Packing([len(ids)], self.device), kept)
        kept.keys[-1], kept.values[-1] = self._last_keys(x, run)
        return kept

    def _through_layers(self, ids: Tensor, packing: Packing, kept: SharedPrefix | None = None) -> tuple[Tensor, _Pass]:
        """The states `[tokens, hidden]` before the last layer; keys and values go to `kept` on the way."""
        x = F.embedding(ids, self.embedding)
        run = _Pass(packing, *self._rotary.at(packing.positions), x, self.config)
        for index, layer in enumerate(self._layers):
            key, value = self._attend(x, index, layer, run)
            if kept is not None:
                kept.keys[index], kept.values[index] = key, value
            self._feed_forward(x, layer.feed_forward, run)
        return x, run

    def _attend(self, x: Tensor, index: int, layer: Layer, run: _Pass) -> tuple[Tensor, Tensor]:
        """Add attention's output to `x` `[tokens, hidden]` in place; the keys and values, until the next call."""
        config, eps = self.config, self.config.rms_norm_eps
        normed = self._parts.norm(x, layer.input_norm, eps, out=run.hidden)
        heads = layer.qkv(normed, out=run.qkv).view(len(x), -1, config.head_dim)
        turned = heads[:, : len(layer.head_norm)]
        self._parts.turn_(turned, layer.head_norm, eps, run.cos, run.sin)
        key_begin = config.num_attention_heads
        value_begin = key_begin + config.num_key_value_heads
        query, key, value = heads.tensor_split((key_begin, value_begin), dim=1)
        self._attention.causal(query, key, value, run.packing, index, run.attended)
        layer.output.add_to(x, run.attended.flatten(1))
        return key, value

    def _last_keys(self, x: Tensor, run: _Pass) -> tuple[Tensor, Tensor]:
        """Keys and values of the last layer, `[tokens, key_value_heads, head_dim]`; leaves the normalised states in
        `run.hidden`."""
        config, layer = self.config, self._last
        normed = self._parts.norm(x, layer.input_norm, config.rms_norm_eps, out=run.hidden)
        both = layer.key_value(normed).view(len(x), -1, config.head_dim)
        key, value = both.chunk(2, dim=1)
        self._parts.turn_(key, layer.key_norm, config.rms_norm_eps, run.cos, run.sin)
        return key, value

    def _attend_pooled(self, x: Tensor, key: Tensor, value: Tensor, run: _Pass) -> Tensor:
        """The rows of `x` at the last tokens, `[n, hidden]`, with attention's output added.

        All that the last layer still has to find: the other rows only matter by their keys and values.
        """
        config, layer, last = self.config, self._last, run.packing.last
        query = layer.query(run.hidden[last]).view(len(last), -1, config.head_dim)
        self._parts.turn_(query, layer.query_norm, config.rms_norm_eps, run.cos[last], run.sin[last])
        attended = self._attention.pooled(query, key, value, run.packing, config.num_hidden_layers - 1)
        x = x[last]
        layer.output.add_to(x, attended.flatten(1))
        return x

    def _feed_forward(self, x: Tensor, layer: FeedForward, run: _Pass) -> None:
        """Add the gated feed-forward's output to `x` `[tokens, hidden]` in place."""
        for part in x.split(_MLP_TOKENS):
            rows = len(part)
            normed = self._parts.norm(part, layer.norm, self.config.rms_norm_eps, out=run.hidden[:rows])
            gated = self._parts.gate(layer.gate_up(normed, out=run.gate_up[:rows]), out=run.gated[:rows])
            layer.down.add_to(part, gated)


class _Pass:
    """What all layers of one forward pass share: where the sequences lie, their angles, and buffers.

    On CPU, fresh memory for each product costs page faults that take as long as a tenth of the product.
    """

    def __init__(self, packing: Packing, cos: Tensor, sin: Tensor, x: Tensor, config: ModelConfig) -> None:
        tokens = len(x)
        self.packing = packing
        self.cos = cos
        self.sin = sin
        self.hidden = torch.empty_like(x)
        self.qkv = x.new_empty(tokens, config.query_size + 2 * config.key_value_size)
        self.attended = x.new_empty(tokens, config.num_attention_heads, config.head_dim)
        self.gate_up = x.new_empty(min(tokens, _MLP_TOKENS), 2 * config.intermediate_size)
        self.gated = x.new_empty(min(tokens, _MLP_TOKENS), config.intermediate_size)
