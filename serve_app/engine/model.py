"""The forward pass of a Qwen3 embedding model over packed tokens: no padding in any linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.attention import GroupedAttention, Packing
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.norm import rms_norm
from serve_app.engine.rope import RotaryTable, rotate_
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.varlen_attention import VarlenAttention, varlen_runs_on
from serve_app.engine.weights import LayerWeights, Weights

_MLP_TOKENS = 4096  # tokens in the feed-forward at once: it is the widest part, and sets the peak of memory


class Model:
    """Qwen3 with last-token pooling. Holds no state between calls, so that threads may share it."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._rotary = RotaryTable(config, self.device, self.dtype)
        varlen = varlen_runs_on(self.device, self.dtype, config.head_dim)
        self._attention = VarlenAttention() if varlen else GroupedAttention()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        # Queries and keys lie side by side, so one weight for both lets one call normalise them.
        self._head_norms = [
            torch.cat([layer.query_norm.expand(heads, -1), layer.key_norm.expand(kv_heads, -1)])
            for layer in weights.layers
        ]

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
        last = self.weights.layers[-1]
        key, value = self._last_keys(x, last, run)
        x = self._attend_pooled(x, key, value, last, run)
        self._feed_forward(x, last, run)
        pooled = x.float()
        pooled = rms_norm(pooled, self.weights.norm.float(), self.config.rms_norm_eps, out=pooled)
        return F.normalize(pooled, dim=-1)

    @torch.inference_mode()
    def prefix(self, ids: Tensor) -> SharedPrefix:
        """The state of one prefix, `ids` int64 `[tokens]` on the model's device, that sequences can go on from."""
        config = self.config
        shape = (config.num_hidden_layers, len(ids), config.num_key_value_heads, config.head_dim)
        kept = SharedPrefix(*(torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2)))
        x, run = self._through_layers(ids, Packing([len(ids)], self.device), kept)
        key, value = self._last_keys(x, self.weights.layers[-1], run)
        kept.keys[-1], kept.values[-1] = key, value
        return kept

    def _through_layers(self, ids: Tensor, packing: Packing, kept: SharedPrefix | None = None) -> tuple[Tensor, _Pass]:
        """The states `[tokens, hidden]` before the last layer; keys and values go to `kept` on the way."""
        x = F.embedding(ids, self.weights.embedding)
        run = _Pass(packing, *self._rotary.at(packing.positions), x, self.config)
        for i in range(self.config.num_hidden_layers - 1):
            key, value = self._attend(x, i, run)
            if kept is not None:
                kept.keys[i], kept.values[i] = key, value
            self._feed_forward(x, self.weights.layers[i], run)
        return x, run

    def _attend(self, x: Tensor, index: int, run: _Pass) -> tuple[Tensor, Tensor]:
        """Add attention's output to `x` `[tokens, hidden]` in place; the keys and values, until the next call."""
        config, layer, head_norm = self.config, self.weights.layers[index], self._head_norms[index]
        normed = rms_norm(x, layer.input_norm, config.rms_norm_eps, out=run.hidden)
        heads = torch.mm(normed, layer.qkv.t(), out=run.qkv).view(len(x), -1, config.head_dim)
        turned = heads[:, : len(head_norm)]
        rms_norm(turned, head_norm, config.rms_norm_eps, out=turned)
        rotate_(turned, run.cos, run.sin)
        key_begin = config.num_attention_heads
        value_begin = key_begin + config.num_key_value_heads
        query, key, value = heads.tensor_split((key_begin, value_begin), dim=1)
        self._attention.causal(query, key, value, run.packing, index, run.attended)
        x.addmm_(run.attended.flatten(1), layer.output.t())
        return key, value

    def _last_keys(self, x: Tensor, layer: LayerWeights, run: _Pass) -> tuple[Tensor, Tensor]:
        """Keys and values of the last layer, `[tokens, key_value_heads, head_dim]`; leaves the normalised states in
        `run.hidden`."""
        config = self.config
        normed = rms_norm(x, layer.input_norm, config.rms_norm_eps, out=run.hidden)
        both = torch.mm(normed, layer.qkv[config.query_size :].t()).view(len(x), -1, config.head_dim)
        key, value = both.chunk(2, dim=1)
        rms_norm(key, layer.key_norm, config.rms_norm_eps, out=key)
        rotate_(key, run.cos, run.sin)
        return key, value

    def _attend_pooled(self, x: Tensor, key: Tensor, value: Tensor, layer: LayerWeights, run: _Pass) -> Tensor:
        """The rows of `x` at the last tokens, `[n, hidden]`, with attention's output added.

        All that the last layer still has to find: the other rows only matter by their keys and values.
        """
        config, last = self.config, run.packing.last
        query = torch.mm(run.hidden[last], layer.qkv[: config.query_size].t()).view(len(last), -1, config.head_dim)
        rms_norm(query, layer.query_norm, config.rms_norm_eps, out=query)
        rotate_(query, run.cos[last], run.sin[last])
        attended = self._attention.pooled(query, key, value, run.packing, config.num_hidden_layers - 1)
        return x[last].addmm_(attended.flatten(1), layer.output.t())

    def _feed_forward(self, x: Tensor, layer: LayerWeights, run: _Pass) -> None:
        """Add the gated feed-forward's output to `x` `[tokens, hidden]` in place."""
        for part in x.split(_MLP_TOKENS):
            rows = len(part)
            normed = rms_norm(part, layer.mlp_norm, self.config.rms_norm_eps, out=run.hidden[:rows])
            gate, up = torch.mm(normed, layer.gate_up.t(), out=run.gate_up[:rows]).chunk(2, dim=1)
            gated = torch.mul(F.silu(gate, inplace=True), up, out=run.gated[:rows])
            part.addmm_(gated, layer.down.t())


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
