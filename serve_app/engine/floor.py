"""How near a quantised model comes to its own weights unquantised, and how near it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from serve_app.engine.floor_texts import TEXTS
from serve_app.engine.model import Model
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.stored import StoredLayers
from serve_app.engine.weights import Weights
from serve_app.errors import CheckpointError
from serve_app.types import TokenIds, Vectors

MINIMUM = 0.99


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Cosines between the vectors of `texts` texts as computed and as float32 gives them: the worst and the mean."""

    minimum: float
    mean: float
    texts: int


def reference_vectors(config: ModelConfig, weights: Weights, token_ids: Sequence[TokenIds]) -> Vectors:
    """What unquantised `weights` give in float32, a layer at a time, so that they are never all in memory.

    `token_ids` go through in one pass.
    """
    layers = weights.layers.read_as(torch.float32) if isinstance(weights.layers, StoredLayers) else weights.layers
    full = replace(weights, layers=layers, norm=weights.norm.float())
    model = Model(config, full, keep_layers=False)
    vectors: Vectors = model.forward(model.pack(token_ids)).cpu().numpy()
    return vectors


def hold(
    name: str,
    tokenize: Callable[[list[str]], list[TokenIds]],
    encode: Callable[[Sequence[TokenIds]], Vectors],
    reference: Callable[[Sequence[TokenIds]], Vectors],
    minimum: float = MINIMUM,
) -> Fidelity:
    """Embed the evaluation texts with `encode` and `reference` and compare.

    `name` is the dtype's, for the error: `CheckpointError` if any cosine is below `minimum`, or isn't a number.
    """
    token_ids = sorted(tokenize(list(TEXTS)), key=len)  # neighbours of equal length go through attention together
    cosines = (encode(token_ids) * reference(token_ids)).sum(1)
    found = Fidelity(float(cosines.min()), float(cosines.mean()), len(token_ids))
    if not found.minimum >= minimum:
        raise CheckpointError(
            f"with dtype={name} this model's vectors are too far from those of its own weights: of {found.texts} "
            f"texts the worst has cosine {found.minimum:.4f}, and {minimum} is needed. Use dtype=bfloat16 or float32."
        )
    return found
