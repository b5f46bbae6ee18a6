"""The memory budget: the estimate against what torch allocates, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from serve_app.engine.elementwise import TorchElementwise
from serve_app.engine.memory_budget import GIB, MemoryBudget, activations, weights_bytes
from serve_app.engine.model import MLP_TOKENS, Model
from serve_app.engine.model_config import QWEN3_EMBEDDING, ModelConfig
from serve_app.engine.random_weights import random_weights
from serve_app.errors import EngineError
from tests.allocated import peak_bytes
from tests.checkpoints import random_ids

CPU = torch.device("cpu")
# The published sizes' proportions, an eighth as wide.
SMALL = {
    "0.6B": ModelConfig(512, 128, 384, 2, 16, 8, 16, max_position_embeddings=32768),
    "8B": ModelConfig(512, 512, 1536, 2, 32, 8, 16, max_position_embeddings=32768),
}


@pytest.mark.parametrize(
    ("size", "dtype", "lengths", "part_tokens"),
    [
        ("0.6B", torch.float32, [64] * 16, 4096),
        ("0.6B", torch.bfloat16, [300] * 4, 4096),
        ("8B", torch.float32, [300] * 4, 4096),
        ("8B", torch.bfloat16, [2500], 1024),
        ("0.6B", torch.float32, [4000], 1024),
    ],
)
def test_the_estimate_is_near_what_is_allocated(
    monkeypatch: pytest.MonkeyPatch, size: str, dtype: torch.dtype, lengths: list[int], part_tokens: int, tmp_path: Path
) -> None:
    # As on CUDA; the kernels that may be compiled for a CPU take less.
    monkeypatch.setattr("serve_app.engine.model.pick_elementwise", lambda *_: TorchElementwise())
    config = SMALL[size]
    model = Model(config, random_weights(config, CPU, dtype), part_tokens=part_tokens)
    needs = activations(
        config, dtype.itemsize, part_tokens=part_tokens, mlp_tokens=min(part_tokens, MLP_TOKENS), packed_kernel=False
    )
    estimated = needs.bytes(sum(lengths), len(lengths))
    ids = random_ids(lengths, 512)
    _, measured = peak_bytes(lambda: model.forward(model.pack(ids)), tmp_path / "trace.json")
    assert 1.0 <= estimated / measured <= 1.5


def needs_of(size: str, part_tokens: int = 16384) -> object:
    return activations(QWEN3_EMBEDDING[size], 2, part_tokens=part_tokens, mlp_tokens=4096, prefixes=True)


def test_weights_are_those_of_the_parameters() -> None:
    config = SMALL["0.6B"]
    weights = random_weights(config, CPU, torch.bfloat16)
    layers = sum(getattr(layer, name).nbytes for layer in weights.layers for name in layer.__slots__)
    angles = config.max_position_embeddings * config.head_dim * 2
    assert weights_bytes(config, 2) == weights.embedding.nbytes + weights.norm.nbytes + layers + angles
    assert weights_bytes(config, 2, 1) == weights_bytes(config, 2) - config.linear_parameters
    assert 1.1 < weights_bytes(QWEN3_EMBEDDING["0.6B"], 2) / GIB < 1.2


def test_the_smallest_model_stays_under_three_gigabytes() -> None:
    config = QWEN3_EMBEDDING["0.6B"]
    budget = MemoryBudget(int(3e9), 1.0, weights_bytes(config, 2), 64 * 2**20)
    needs = needs_of("0.6B")
    tokens = budget.batch_tokens(needs, asked=None, default=16384, inputs=512, longest_input=8192)
    assert tokens >= 8192
    assert needs.bytes(tokens, 512) <= budget.available < needs.bytes(tokens + 1, 512) or tokens == 16384


def test_a_share_of_the_device_holds_less() -> None:
    config = QWEN3_EMBEDDING["4B"]
    tokens = []
    for share in (1.0, 0.5, 0.25):
        budget = MemoryBudget(40 * GIB, share, weights_bytes(config, 2), 0)
        assert budget.fraction == pytest.approx(share - 600 / (40 * 1024))
        tokens.append(budget.batch_tokens(needs_of("4B"), asked=None, default=10**6, inputs=1, longest_input=512))
    assert tokens[0] > 2 * tokens[1] > 4 * tokens[2] > 0


def test_what_cannot_fit_is_refused_with_the_numbers() -> None:
    config = QWEN3_EMBEDDING["8B"]
    budget = MemoryBudget(16 * GIB, 1.0, weights_bytes(config, 2), 0)
    needs = needs_of("8B")
    common = {"default": 16384, "inputs": 64}
    with pytest.raises(EngineError, match=r"batch.max_tokens=100000 needs .* GiB; 16.00 GiB .*holds \d+ tokens"):
        budget.batch_tokens(needs, asked=100_000, longest_input=512, **common)
    with pytest.raises(
        EngineError, match=r"limits.max_input_tokens=32768: one such input needs .*an input of \d+ tokens"
    ):
        budget.batch_tokens(needs, asked=None, longest_input=32768, **common)
    fits = budget.batch_tokens(needs, asked=None, longest_input=512, **common)
    assert budget.batch_tokens(needs, asked=fits, longest_input=512, **common) == fits
    with pytest.raises(EngineError, match=r"the model doesn't fit: 16.00 GiB x 0\.5"):
        replace(budget, share=0.5).batch_tokens(needs, asked=None, longest_input=512, **common)
