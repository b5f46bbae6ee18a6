"""The forward pass of a Qwen3 embedding model over packed tokens: no padding in any linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from serve_app.engine.attention import GroupedAttention
from serve_app.engine.attention_check import invariant_attention, pick_attention
from serve_app.engine.elementwise import Elementwise, pick_elementwise
from serve_app.engine.fixed_rows import FixedRowsElementwise, fixed_rows, normalised, rows_on
from serve_app.engine.layer import FeedForward, Layer, Layers, Project
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.packing import PackedBatch, pack
from serve_app.engine.projection import Dense
from serve_app.engine.rope import RotaryTable
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.weights import Weights

MLP_TOKENS = 4096  # tokens in the feed-forward at once: it is the widest part, and sets the peak of memory
CPU_MLP_TOKENS = 1024  # the same on CPU, where larger results are fresh memory each time


def default_part_tokens(device: torch.device) -> int:
    """Tokens that a layer computes at once: on CUDA so many that the number of launches doesn't matter."""
    return 16384 if device.type == "cuda" else 4096


class Model:
    """Qwen3 with last-token pooling. Holds no state between calls, so that threads may share it.

    `attention` is what it attends with; `goes_on` says whether it may go on from prefixes: that was seen right, and fast, on the
    device.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        project: Project = Dense,
        part_tokens: int | None = None,
        *,
        invariant: bool = False,
        keep_layers: bool = True,
    ) -> None:
        """`project` makes the projections of the weights' matrices, one layer after another. `part_tokens` are computed
        at once in a layer, of which more only keeps states, keys and values; None is the device's default. With
        `invariant`, what else is in a batch doesn't change a bit of a vector: products have a fixed number of rows, and
        sequences are never computed in parts. Without `keep_layers` layers are made anew in every pass, so that one at a
        time is in memory.
        """
        self.config = config
        self.device = weights.embedding.device
        self.dtype = weights.norm.dtype
        self.embedding = weights.embedding
        self._norm = weights.norm.float()
        self._elementwise: Elementwise = pick_elementwise(self.device, self.dtype)
        self._rotary = RotaryTable(config, self.device, self.dtype)
        self.attention, self.goes_on = pick_attention(config, self.device, self.dtype)
        self.part_tokens: int | None = part_tokens or default_part_tokens(self.device)
        self._unit: Callable[[Tensor], Tensor] = partial(F.normalize, dim=-1)
        if invariant:
            project, self.part_tokens, self.goes_on = fixed_rows(project), None, False
            rows = rows_on(self.device)
            self._elementwise = FixedRowsElementwise(self._elementwise, rows)
            self._unit = partial(normalised, rows=rows)
            self.attention = invariant_attention(self.attention, self.device)
        self._layers = Layers(weights.layers, config, project, keep=keep_layers)

    @property
    def can_be_recorded(self) -> bool:
        """Whether a CUDA graph can be made of `forward`: attention has to find the bounds of sequences on the device."""
        return self.device.type == "cuda" and not isinstance(self.attention, GroupedAttention)

    def pack(
        self, token_ids: Sequence[npt.NDArray[np.integer]], prefixes: Sequence[SharedPrefix | None] = ()
    ) -> PackedBatch:
        """Sequences as `forward` takes them, on the model's device; the host doesn't wait for the copy.

        `token_ids` has at least one id for each. `prefixes` has for every sequence the state of what comes before its ids, or
        None; without any it may be empty. Sequences of equal length and prefix should be neighbours: without
        the CUDA kernel, attention runs once for each run of them.
        """
        return pack(token_ids, self.device, prefixes, self.part_tokens)

    @torch.inference_mode()
    def forward(self, batch: PackedBatch) -> Tensor:
        """Embed packed sequences: float32 `[n, hidden]`, L2-normalised. On CUDA the result is computed later; the host never waits."""
        x, run = self._through_layers(batch)
        x = self._attend_pooled(x, *self._last_keys(x, run), run)
        self._feed_forward(x, self._layers.last.feed_forward, run)
        pooled = x.float()
        pooled = self._elementwise.norm(pooled, self._norm, self.config.rms_norm_eps, out=pooled)
        return self._unit(pooled)

    @torch.inference_mode()
    def every_token(self, batch: PackedBatch) -> Tensor:
        """The last states of all tokens of sequences without prefixes: float32 `[tokens, hidden]`, not L2-normalised."""
        x, run = self._through_layers(batch)
        self._attend_last(x, *self._last_keys(x, run), run)
        self._feed_forward(x, self._layers.last.feed_forward, run)
        states = x.float()
        return self._elementwise.norm(states, self._norm, self.config.rms_norm_eps, out=states)

    @torch.inference_mode()
    def prefix(self, ids: npt.NDArray[np.integer]) -> SharedPrefix:
        """The state of one prefix, ids `[tokens]`, that sequences can go on from."""
        config = self.config
        shape = (config.num_hidden_layers, len(ids), config.num_key_value_heads, config.head_dim)
        kept = SharedPrefix(*(torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2)))
        x, run = self._through_layers(self.pack([ids]), kept)
        kept.keys[-1], kept.values[-1] = self._last_keys(x, run)
        return kept

    def _through_layers(self, batch: PackedBatch, kept: SharedPrefix | None = None) -> tuple[Tensor, _Pass]:
        """The states `[tokens, hidden]` before the last layer; keys and values go to `kept` on the way."""
        x = F.embedding(batch.ids, self.embedding).to(self.dtype)
        run = _Pass(batch, *self._rotary.at(batch.positions), x, self.config)
        for index, layer in enumerate(self._layers.first):
            key, value = self._attend(x, index, layer, run)
            if kept is not None:
                kept.keys[index], kept.values[index] = key, value
            self._feed_forward(x, layer.feed_forward, run)
        return x, run

    def _attend(self, x: Tensor, index: int, layer: Layer, run: _Pass) -> tuple[Tensor, Tensor]:
        """Add attention's output to `x` `[tokens, hidden]` in place; the keys and values, until the next call.

        Part by part: no token needs the keys of a later part.
        """
        config, eps = self.config, self.config.rms_norm_eps
        key_begin = config.num_attention_heads
        value_begin = key_begin + config.num_key_value_heads
        for begin, packing in run.batch.parts:
            part = x[begin : begin + packing.tokens]
            rows, end = len(part), begin + len(part)
            normed = self._elementwise.norm(part, layer.input_norm, eps, out=run.hidden[:rows])
            heads = layer.qkv(normed, out=run.qkv[:rows]).view(rows, -1, config.head_dim)
            turned = heads[:, : len(layer.head_norm)]
            self._elementwise.turn_(turned, layer.head_norm, eps, run.cos[begin:end], run.sin[begin:end])
            query, key, value = heads.tensor_split((key_begin, value_begin), dim=1)
            if run.keys is not None and run.values is not None:
                run.keys[begin:end], run.values[begin:end] = key, value
                key, value = (kept[begin - packing.earlier : end] for kept in (run.keys, run.values))
            attended = self.attention.causal(query, key, value, packing, index, run.attended[:rows])
            layer.output.add_to(part, attended.flatten(1))
        return (key, value) if run.keys is None or run.values is None else (run.keys, run.values)

    def _last_keys(self, x: Tensor, run: _Pass) -> tuple[Tensor, Tensor]:
        """Keys and values of the last layer, `[tokens, key_value_heads, head_dim]`."""
        config, layer = self.config, self._layers.last
        both = x.new_empty(len(x), 2 * config.key_value_size)
        for begin, packing in run.batch.parts:
            rows = slice(begin, begin + packing.tokens)
            normed = self._elementwise.norm(
                x[rows], layer.input_norm, config.rms_norm_eps, out=run.hidden[: packing.tokens]
            )
            into = both[rows]
            if (product := layer.key_value(normed, out=into)) is not into:
                into.copy_(product)
        key, value = both.view(len(x), -1, config.head_dim).chunk(2, dim=1)
        self._elementwise.turn_(key, layer.key_norm, config.rms_norm_eps, run.cos, run.sin)
        return key, value

    def _attend_pooled(self, x: Tensor, key: Tensor, value: Tensor, run: _Pass) -> Tensor:
        """The rows of `x` at the last tokens, `[n, hidden]`, with attention's output added.

        All that the last layer still has to find: the other rows only matter by their keys and values.
        """
        config, layer, last = self.config, self._layers.last, run.batch.last
        x = x[last]
        normed = self._elementwise.norm(x, layer.input_norm, config.rms_norm_eps, out=torch.empty_like(x))
        query = layer.query(normed).view(len(last), -1, config.head_dim)
        self._elementwise.turn_(query, layer.query_norm, config.rms_norm_eps, run.cos[last], run.sin[last])
        attended = self.attention.pooled(query, key, value, run.batch.whole, config.num_hidden_layers - 1)
        layer.output.add_to(x, attended.flatten(1))
        return x

    def _attend_last(self, x: Tensor, key: Tensor, value: Tensor, run: _Pass) -> None:
        """What `_attend` does, in the last layer: with its keys and values of all tokens."""
        config, eps, layer = self.config, self.config.rms_norm_eps, self._layers.last
        for begin, packing in run.batch.parts:
            part = x[begin : begin + packing.tokens]
            rows, end = len(part), begin + len(part)
            normed = self._elementwise.norm(part, layer.input_norm, eps, out=run.hidden[:rows])
            query = layer.query(normed).view(rows, -1, config.head_dim)
            self._elementwise.turn_(query, layer.query_norm, eps, run.cos[begin:end], run.sin[begin:end])
            seen = slice(begin - packing.earlier, end)
            of_last = packing, config.num_hidden_layers - 1, run.attended[:rows]
            attended = self.attention.causal(query, key[seen], value[seen], *of_last)
            layer.output.add_to(part, attended.flatten(1))

    def _feed_forward(self, x: Tensor, layer: FeedForward, run: _Pass) -> None:
        """Add the gated feed-forward's output to `x` `[tokens, hidden]` in place."""
        for part in x.split(len(run.gated)):
            rows = len(part)
            normed = self._elementwise.norm(part, layer.norm, self.config.rms_norm_eps, out=run.hidden[:rows])
            gated = self._elementwise.gate(layer.gate_up(normed, out=run.gate_up[:rows]), out=run.gated[:rows])
            layer.down.add_to(part, gated)


class _Pass:
    """What all layers of one forward pass share: where the sequences lie, their angles, and buffers for one part.

    On CPU, fresh memory for each product costs page faults that take as long as a tenth of the product.
    `keys` and `values` are those of all parts, where there is more than one.
    """

    def __init__(self, batch: PackedBatch, cos: Tensor, sin: Tensor, x: Tensor, config: ModelConfig) -> None:
        self.batch = batch
        self.cos = cos
        self.sin = sin
        rows = batch.parts[0][1].tokens  # no other part is larger
        at_once = min(rows, CPU_MLP_TOKENS if x.device.type == "cpu" else MLP_TOKENS)
        self.hidden = x.new_empty(rows, config.hidden_size)
        self.qkv = x.new_empty(rows, config.query_size + 2 * config.key_value_size)
        self.attended = x.new_empty(rows, config.num_attention_heads, config.head_dim)
        self.gate_up = x.new_empty(at_once, 2 * config.intermediate_size)
        self.gated = x.new_empty(at_once, config.intermediate_size)
        self.keys = self.values = None
        if len(batch.parts) > 1:
            shape = (len(x), config.num_key_value_heads, config.head_dim)
            self.keys, self.values = x.new_empty(shape), x.new_empty(shape)
