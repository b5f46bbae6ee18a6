"""How many tokens a device's memory holds at once: arithmetic on the shapes, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.engine.attention import MASK_ENTRIES
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.prefix_cache import KEYS_PER_TOKEN
from serve_app.errors import EngineError

GIB = 2**30
CONTEXT_BYTES = 600 * 2**20
"""What a process takes of a CUDA device before its first tensor: context and kernels. torch doesn't count it."""
RESERVE_BYTES = 256 * 2**20
"""Workspaces of the libraries, and memory lost between tensors."""
_FEWEST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that a forward pass needs beside the weights: for each token, each token of the part that a layer computes at
    once, each token in the feed-forward at once, and each input.

    `part_tokens` and `mlp_tokens` are the most of those parts.
    """

    token: int
    parted_token: int  # beside `token`, where there is more than one part
    masks: int  # in bytes altogether, where there is more than one part
    part_token: int
    mlp_token: int
    input: int
    part_tokens: int
    mlp_tokens: int

    def bytes(self, tokens: int, inputs: int) -> int:
        """For a batch."""
        parted = self.parted_token * tokens + self.masks if tokens > self.part_tokens else 0
        part = self.part_token * min(tokens, self.part_tokens) + self.mlp_token * min(tokens, self.mlp_tokens)
        return self.token * tokens + parted + part + self.input * min(inputs, tokens)

    def tokens_in(self, available: int, inputs: int) -> int:
        """The most tokens of a batch that fits; 0 if none does."""
        low, high = 0, 2**24
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes(middle, inputs) <= available else (low, middle - 1)
        return low


def activations(
    config: ModelConfig,
    itemsize: int,
    *,
    part_tokens: int,
    mlp_tokens: int,
    packed_kernel: bool = True,
    prefixes: bool = False,
) -> Activations:
    """What `Model.forward` allocates, tensor by tensor, in a dtype of `itemsize` bytes.

    `packed_kernel` says whether one kernel attends for all sequences; without it keys and values are repeated for the heads that
    share them. With `prefixes`, keys and values are laid out anew behind prefixes.
    """
    hidden, query, key = config.hidden_size, config.query_size, config.key_value_size
    # Norms in a low precision go through float32: the result, and an intermediate.
    norm = 10 if itemsize < 4 else 0
    turned = max((query + key) * norm, (query + key) // 2 * itemsize)
    attended = query * itemsize + 4 * config.num_attention_heads
    repeated = 0 if packed_kernel else 2 * query * itemsize
    laid_out = (2 * KEYS_PER_TOKEN + 2) * key * itemsize if prefixes else 0
    ids_and_places = 4 * 8
    last_keys = 2 * key * itemsize + max(key * norm, key // 2 * itemsize)
    return Activations(
        token=(hidden + config.head_dim) * itemsize + ids_and_places + max(last_keys, repeated) + laid_out,
        parted_token=2 * key * itemsize,
        masks=0 if packed_kernel else MASK_ENTRIES * (1 + itemsize),
        part_token=(hidden + 2 * query + 2 * key) * itemsize + max(turned, attended, hidden * norm),
        mlp_token=3 * config.intermediate_size * itemsize,
        input=(2 * hidden + 3 * query) * itemsize + 3 * 4 * hidden,
        part_tokens=part_tokens,
        mlp_tokens=mlp_tokens,
    )


def weights_bytes(config: ModelConfig, itemsize: int, linear_itemsize: float | None = None) -> int:
    """Memory for weights, and for the angles of every position; `linear_itemsize` is a parameter's bytes in the linear layers, where
    it is another."""
    linear = config.linear_parameters
    angles = config.max_position_embeddings * config.head_dim
    return int((config.parameters - linear + angles) * itemsize + linear * (linear_itemsize or itemsize))


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What a replica may use of a device of `total` bytes, and what of it is taken before the first token."""

    total: int
    share: float
    weights: int
    prefix_cache: int
    graphs: int = 0

    @property
    def available(self) -> int:
        """Bytes for activations; negative where not even the weights fit."""
        taken = CONTEXT_BYTES + RESERVE_BYTES + self.weights + self.prefix_cache + self.graphs
        return int(self.total * self.share) - taken

    @property
    def fraction(self) -> float:
        """The share of the device that torch may allocate."""
        return max(0.0, self.share - CONTEXT_BYTES / self.total)

    def describe(self) -> str:
        """In words, with the numbers."""
        share = f" x {self.share:g}" if self.share < 1 else ""
        graphs = f", {_gib(self.graphs)} for graphs" if self.graphs else ""
        return (
            f"{_gib(self.total)}{share} of GPU memory, of which {_gib(self.weights)} for weights, {_gib(self.prefix_cache)} for "
            f"prefixes{graphs}, {_gib(CONTEXT_BYTES + RESERVE_BYTES)} in reserve: {_gib(self.available)} are left for computing"
        )

    def batch_tokens(
        self, needs: Activations, *, asked: int | None, default: int, inputs: int, longest_input: int
    ) -> int:
        """The token budget of a batch of so many `inputs`: as `asked`, else `default` or the less that fits.

        Raises `EngineError` if what was asked for doesn't fit, nor one input of `longest_input` tokens, nor any batch worth computing.
        """
        most = needs.tokens_in(self.available, inputs)
        if most < _FEWEST_TOKENS:
            raise EngineError(
                f"the model doesn't fit: {self.describe()}, and {_gib(needs.bytes(_FEWEST_TOKENS, inputs))} are needed for even "
                f"{_FEWEST_TOKENS} tokens. Give each replica more of the GPU (num_gpus), or less to batch.prefix_cache_mb."
            )
        if asked is not None and asked > most:
            raise EngineError(
                f"batch.max_tokens={asked} needs {_gib(needs.bytes(asked, inputs))}; {self.describe()}. That holds "
                f"{most} tokens: set that or less, or leave it unset."
            )
        longest = needs.tokens_in(self.available, 1)
        if longest_input > longest:
            raise EngineError(
                f"limits.max_input_tokens={longest_input}: one such input needs {_gib(needs.bytes(longest_input, 1))}; "
                f"{self.describe()}. That holds an input of {longest} tokens: set that or less, or give each replica more of the GPU."
            )
        return asked or min(default, most)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
