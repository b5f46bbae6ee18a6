"""What a replica may take of the CUDA device that it runs on, decided before the model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from serve_app.engine.memory_budget import MemoryBudget, activations, weights_bytes
from serve_app.engine.model import MLP_TOKENS, default_part_tokens
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.varlen_attention import varlen_runs_on
from serve_app.errors import EngineError

logger = logging.getLogger(__name__)

_NO_PARTS = 2**31


def budget_batches(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    share: float,
    prefix_cache: int,
    graphs: int,
    asked: int | None,
    default: int,
    inputs: int,
    longest_input: int,
    linear_itemsize: float | None = None,
    invariant: bool = False,
) -> Callable[[int | None], int]:
    """The most tokens of a batch, by what is asked for (None for `default`), in this `share` of the device's memory.

    Keeps torch to that share from now on. `prefix_cache` and `graphs` are bytes; `linear_itemsize` is a parameter's bytes in the
    linear layers, if another than that of `dtype`. See `MemoryBudget.batch_tokens` for the others, and for what is refused with
    `EngineError`. What is asked for later and doesn't fit becomes what does, and the log says so.
    """
    total = torch.cuda.get_device_properties(device).total_memory
    weights = weights_bytes(config, dtype.itemsize, linear_itemsize)
    budget = MemoryBudget(total, min(share, 1.0), weights, prefix_cache, graphs)
    needs = activations(
        config,
        dtype.itemsize,
        part_tokens=_NO_PARTS if invariant else default_part_tokens(device),
        mlp_tokens=MLP_TOKENS,
        packed_kernel=varlen_runs_on(device, dtype, config.head_dim),
        prefixes=prefix_cache > 0,
    )
    tokens = budget.batch_tokens(needs, asked=asked, default=default, inputs=inputs, longest_input=longest_input)
    logger.info("Memory: %s, which batches of %d tokens fit into", budget.describe(), tokens)
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(budget.fraction, device)

    def granted(wish: int | None) -> int:
        try:
            return budget.batch_tokens(needs, asked=wish, default=default, inputs=inputs, longest_input=1)
        except EngineError as error:
            most = needs.tokens_in(budget.available, inputs)
            logger.warning("Batches stay at %d tokens: %s", most, error)
            return most

    return granted
