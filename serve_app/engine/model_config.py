"""The shapes of a Qwen3 embedding model, and what follows from them by arithmetic.

Imports neither torch nor transformers: the gateway reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve_app.errors import CheckpointError

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of one model, under the names that `config.json` uses.

    `dtype` is the name of the stored weights' dtype (`"bfloat16"`, `"float32"`), not of the computation.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 32768
    tie_word_embeddings: bool = True
    dtype: str = "bfloat16"

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together; the values have the same."""
        return self.num_key_value_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Parameters of the linear layers: those that every token is multiplied with."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.key_value_size)
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def parameters(self) -> int:
        """All parameters that embedding uses: without `lm_head`, tied or not."""
        norms = self.num_hidden_layers * (2 * self.hidden_size + 2 * self.head_dim) + self.hidden_size
        return self.vocab_size * self.hidden_size + self.linear_parameters + norms

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations a token, averaged over a sequence of `length` tokens in a full causal
        forward."""
        attention = 2 * self.num_hidden_layers * self.query_size * length
        return float(2 * self.linear_parameters + attention)

    def embedding_flops(self, inputs: int, tokens: int, squared_tokens: int) -> float:
        """Floating-point operations that embedding takes for `inputs` of `tokens` in all; `squared_tokens` is the
        sum of the squares of their lengths.

        Two a parameter and token for every linear layer, four a query channel, token and causal position for attention (PaLM,
        arXiv:2204.02311, appendix B, forward part; half the positions are masked). The last layer needs its queries, output
        projection and MLP for the pooled tokens only.
        """
        full_layers = self.num_hidden_layers - 1
        per_layer = self.linear_parameters // self.num_hidden_layers
        keys_and_values = 2 * self.hidden_size * self.key_value_size
        return float(
            full_layers * (2 * per_layer * tokens + 2 * self.query_size * squared_tokens)
            + 2 * keys_and_values * tokens
            + 2 * (per_layer - keys_and_values) * inputs
            + 4 * self.query_size * tokens
        )


def parse_config(fields: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """Read the fields of a `config.json`.

    Raises `CheckpointError`, naming the field and what was found, for anything this engine can't compute
    exactly.
    """
    if fields.get("model_type") != "qwen3":
        raise CheckpointError(f"{where}: model_type is {fields.get('model_type')!r}, this engine serves 'qwen3' only")
    _refuse_variants(fields, where)
    config = ModelConfig(
        **{name: _count(fields, name, where) for name in _COUNTS},
        rms_norm_eps=_positive(fields.get("rms_norm_eps"), "rms_norm_eps", where),
        rope_theta=_rope_theta(fields, where),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        dtype=str(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
    )
    if config.num_attention_heads % config.num_key_value_heads:
        raise CheckpointError(
            f"{where}: num_attention_heads {config.num_attention_heads} isn't a multiple of "
            f"num_key_value_heads {config.num_key_value_heads}"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{where}: head_dim {config.head_dim} is odd, rotary embeddings need an even one")
    return config


def _refuse_variants(fields: dict[str, Any], where: str) -> None:
    """Refuse what changes the computation: ignoring any of these would give plausible but wrong vectors."""
    if fields.get("attention_bias"):
        raise CheckpointError(f"{where}: attention_bias is true, biases in attention aren't supported")
    if fields.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{where}: hidden_act is {fields['hidden_act']!r}, only 'silu' is supported")
    layer_types = set(fields.get("layer_types") or ()) - {"full_attention"}
    if fields.get("use_sliding_window") or layer_types:
        found = f"layer_types has {sorted(layer_types)}" if layer_types else "use_sliding_window is true"
        raise CheckpointError(f"{where}: {found}, sliding-window attention isn't supported")
    for name in ("rope_scaling", "rope_parameters"):
        scaling = fields.get(name) or {}
        kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else scaling
        if kind != "default":
            raise CheckpointError(f"{where}: {name} is {scaling!r}, scaled rotary embeddings aren't supported")
    if fields.get("quantization_config"):
        raise CheckpointError(f"{where}: quantization_config is set, only unquantised weights are supported")


def _rope_theta(fields: dict[str, Any], where: str) -> float:
    nested = fields.get("rope_parameters") or {}
    return _positive(fields.get("rope_theta", nested.get("rope_theta")), "rope_theta", where)


def _count(fields: dict[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{where}: {name} is {value!r}, a positive integer is needed")
    return value


def _positive(value: object, name: str, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise CheckpointError(f"{where}: {name} is {value!r}, a positive number is needed")
    return float(value)


QWEN3_EMBEDDING = {
    "0.6B": ModelConfig(151669, 1024, 3072, 28, 16, 8, 128, max_position_embeddings=32768),
    "4B": ModelConfig(151665, 2560, 9728, 36, 32, 8, 128, max_position_embeddings=40960),
    "8B": ModelConfig(151665, 4096, 12288, 36, 32, 8, 128, max_position_embeddings=40960),
}
"""The three published sizes."""
