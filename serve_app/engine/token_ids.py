"""What an engine can compute of what it's given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serve_app.engine.model_config import ModelConfig
from serve_app.errors import EngineError
from serve_app.types import TokenIds


def check_token_ids(token_ids: Sequence[TokenIds], config: ModelConfig) -> None:
    """Raises `EngineError` naming an input that is empty, too long for the model or has ids outside its vocabulary."""
    limit = config.max_position_embeddings
    # All at once: of thousands of short inputs, looking at each takes as long as computing them does on a GPU.
    well_shaped = [ids.ndim == 1 and 1 <= len(ids) <= limit for ids in token_ids]
    if well_shaped and all(well_shaped):
        every = np.concatenate(token_ids)
        if every.min() >= 0 and every.max() < config.vocab_size:
            return
    for index, ids in enumerate(token_ids):
        if not well_shaped[index]:
            raise EngineError(f"input {index} has shape {list(ids.shape)}, 1 to {limit} token ids are needed")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= config.vocab_size:
            wrong = low if low < 0 else high
            raise EngineError(f"input {index} has token id {wrong}, outside the vocabulary of {config.vocab_size}")
