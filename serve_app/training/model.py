"""The model that is trained: Qwen3's maths in float32 with gradients, pooled at the last token.

Its names and shapes are those of the published files. The served engine computes without gradients and transformers' model spends
half its time on norms here, hence this one; tests hold all three to the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from serve_app.engine.layout import tensor_shapes
from serve_app.engine.model_config import ModelConfig


class Embedder(torch.nn.Module):
    """Token ids to vectors of `hidden_size`, not normalised."""

    def __init__(self, config: ModelConfig, *, dropout: float, embedding_scale: float) -> None:
        """Weights drawn from torch's own seed; `dropout` is the share of tokens left out of a text in training."""
        super().__init__()
        self.config = config
        self.dropout = dropout
        for name, shape in tensor_shapes(config).items():
            drawn = torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * shape[1] ** -0.5 * 0.25
            if name == "embed_tokens.weight":
                drawn = torch.randn(shape) * embedding_scale
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(drawn))

    def tensor(self, name: str) -> torch.nn.Parameter:
        """The parameter that published files call `name`."""
        found: torch.nn.Parameter = getattr(self, name.replace(".", "_"))
        return found

    @torch.no_grad()
    def start_from(self, meanings: Tensor, scale: float) -> None:
        """Let the first layer's attention pass the mean of the tokens' `meanings`, [vocabulary, hidden], on to the pooled token."""
        self.tensor("embed_tokens.weight").mul_(0.1).add_(meanings * scale)
        config = self.config
        share = config.num_attention_heads // config.num_key_value_heads
        self.tensor("layers.0.self_attn.v_proj.weight").mul_(0.1).add_(
            torch.eye(config.key_value_size, config.hidden_size)
        )
        out = torch.zeros(config.hidden_size, config.num_attention_heads, config.head_dim)
        for head in range(config.num_attention_heads):
            at = head // share * config.head_dim
            out[at : at + config.head_dim, head] = torch.eye(config.head_dim) / share
        self.tensor("layers.0.self_attn.o_proj.weight").mul_(0.1).add_(out.flatten(1))

    def forward(self, ids: Sequence[Sequence[int]], chunk: int = 64) -> Tensor:
        """float32 [len(ids), hidden]. Texts of like length go through together."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        parts = [self._chunk([ids[i] for i in order[at : at + chunk]]) for at in range(0, len(order), chunk)]
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back]

    def _chunk(self, ids: list[Sequence[int]]) -> Tensor:
        """One padded forward [B, T]. Padding stands on the right, where causal attention doesn't see it."""
        config = self.config
        last = torch.tensor([len(one) - 1 for one in ids])
        rows = torch.arange(len(ids))
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
        states = F.embedding(padded, self.tensor("embed_tokens.weight"))
        if self.training and self.dropout:
            # Whole tokens go, so that no text hangs on one word; the last one, where it is pooled, stays.
            keep = torch.rand(padded.shape) >= self.dropout
            keep[rows, last] = True
            states = states * keep.unsqueeze(-1)
        cos, sin = _rotations(config, padded.shape[1])
        for layer in range(config.num_hidden_layers - 1):
            attended = self._attention(layer, states, cos, sin)
            states = states + attended
            states = states + self._feed_forward(layer, states)
        # Of the last layer only the pooled token's row is needed.
        pooled = states[rows, last].unsqueeze(1)
        pooled = pooled + self._attention(config.num_hidden_layers - 1, states, cos, sin, last)
        pooled = pooled + self._feed_forward(config.num_hidden_layers - 1, pooled)
        return self._norm("norm.weight", pooled.squeeze(1))

    def _attention(self, layer: int, states: Tensor, cos: Tensor, sin: Tensor, last: Tensor | None = None) -> Tensor:
        """[B, T, hidden], or with `last`, [B] positions, [B, 1, hidden] for those alone."""
        config, at = self.config, f"layers.{layer}."
        normed = self._norm(at + "input_layernorm.weight", states)
        asking = normed if last is None else normed[torch.arange(len(last)), last].unsqueeze(1)
        shape = (len(states), -1, config.num_attention_heads, config.head_dim)
        query = self._norm(at + "self_attn.q_norm.weight", self._linear(at + "self_attn.q_proj", asking).view(shape))
        shape = (len(states), -1, config.num_key_value_heads, config.head_dim)
        key = self._norm(at + "self_attn.k_norm.weight", self._linear(at + "self_attn.k_proj", normed).view(shape))
        value = self._linear(at + "self_attn.v_proj", normed).view(shape).transpose(1, 2)
        mask = None
        if last is None:
            query = _rotate(query.transpose(1, 2), cos, sin)
        else:
            query = _rotate(query.transpose(1, 2), cos[last, None][:, None], sin[last, None][:, None])
            mask = (torch.arange(states.shape[1]) <= last[:, None])[:, None, None]
        key = _rotate(key.transpose(1, 2), cos, sin)
        heads = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=last is None, enable_gqa=True
        )
        return self._linear(at + "self_attn.o_proj", heads.transpose(1, 2).flatten(2))

    def _feed_forward(self, layer: int, states: Tensor) -> Tensor:
        at = f"layers.{layer}."
        normed = self._norm(at + "post_attention_layernorm.weight", states)
        gate = F.silu(self._linear(at + "mlp.gate_proj", normed))
        return self._linear(at + "mlp.down_proj", gate * self._linear(at + "mlp.up_proj", normed))

    def _linear(self, name: str, states: Tensor) -> Tensor:
        return F.linear(states, self.tensor(f"{name}.weight"))

    def _norm(self, name: str, states: Tensor) -> Tensor:
        normed: Tensor = _RootMeanSquareNorm.apply(states, self.tensor(name), self.config.rms_norm_eps)  # type: ignore[no-untyped-call]
        return normed


class _RootMeanSquareNorm(torch.autograd.Function):
    """x / sqrt(mean(x²) + eps) * weight along the last dimension, with its gradient written out: five times as fast on CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        normed: Tensor = unit * weight
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, scale, weight = ctx.saved_tensors
        of_weight = (grad * unit).flatten(0, -2)
        inner = of_weight @ weight
        into = grad * weight
        into.sub_(unit * inner.view(scale.shape).div(unit.shape[-1])).mul_(scale)
        return into, of_weight.sum(0), None


def _rotations(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each [length, head_dim]."""
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    angles = torch.outer(torch.arange(length).float(), config.rope_theta**-exponents)
    both = torch.cat([angles, angles], -1)
    return both.cos(), both.sin()


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin
