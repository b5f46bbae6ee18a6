"""Random weights made in memory, for measuring at the published shapes without the published files."""

from __future__ import annotations

import torch

from serve_app.engine.model_config import ModelConfig
from serve_app.engine.weights import Weights, empty_weights, named_tensors


def random_weights(config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Weights:
    """Seeded weights of the shapes of `config`, scaled so that activations keep their size from layer to
    layer.

    The values depend on the device's random generator as well as on the seed.
    """
    generator = torch.Generator(device).manual_seed(seed)
    weights = empty_weights(config, device, dtype)
    for name, tensor in named_tensors(weights, config).items():
        if tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            fan_in = 1 if name.startswith("embed") else tensor.shape[1]
            tensor.normal_(0.0, fan_in**-0.5, generator=generator)
    return weights
