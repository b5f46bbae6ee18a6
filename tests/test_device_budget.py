"""The memory budget on a CUDA device that is only said to be there."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from serve_app.cluster.engine_host import memory_budget
from serve_app.config import Settings
from serve_app.engine import device_budget
from serve_app.engine.device_budget import budget_batches
from serve_app.engine.memory_budget import GIB
from serve_app.engine.model_config import QWEN3_EMBEDDING
from serve_app.errors import EngineError

CUDA = torch.device("cuda", 0)


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A GPU of 24 GiB; what torch is told to keep to."""
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=24 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: told.append(share))
    monkeypatch.setattr(device_budget, "varlen_runs_on", lambda *_: True)
    monkeypatch.setattr("serve_app.cluster.engine_host.pick_device", lambda _: CUDA)
    return told


def test_a_share_of_a_gpu_is_kept_to(fractions: list[float], caplog: pytest.LogCaptureFixture) -> None:
    config = QWEN3_EMBEDDING["0.6B"]
    with caplog.at_level(logging.INFO):
        granted = memory_budget(Settings.model_validate({"batch.max_inputs": 64}), config, 0.25)
    assert fractions == [pytest.approx(0.25 - 600 / (24 * 1024))]
    assert granted(None) == 16384
    assert granted(4096) == 4096
    assert "24.00 GiB x 0.25 of GPU memory" in caplog.text
    assert "batches of 16384 tokens" in caplog.text
    with caplog.at_level(logging.WARNING):
        most = granted(10**6)
    assert 16384 < most < 10**6
    assert "batch.max_tokens=1000000 needs" in caplog.text


def test_a_whole_gpu_needs_no_limit(fractions: list[float]) -> None:
    assert memory_budget(Settings(), QWEN3_EMBEDDING["0.6B"], 1)(None) == 16384
    assert memory_budget(Settings(), QWEN3_EMBEDDING["0.6B"], 2)(None) == 16384
    assert fractions == []


def test_less_than_the_default_is_taken_where_no_more_fits(fractions: list[float]) -> None:
    options = {"share": 1.0, "graphs": 0, "asked": None, "default": 16384, "inputs": 64, "longest_input": 512}
    config, bf16 = QWEN3_EMBEDDING["8B"], torch.bfloat16
    with pytest.raises(EngineError, match="the model doesn't fit"):
        budget_batches(config, CUDA, torch.float32, prefix_cache=0, **options)
    small = budget_batches(config, CUDA, bf16, prefix_cache=7 * GIB, **options)(None)
    assert 256 <= small < 16384
    # Weights of half the size leave room, fixed parts of a layer need more than none.
    assert budget_batches(config, CUDA, bf16, prefix_cache=7 * GIB, linear_itemsize=1, **options)(None) == 16384
    assert budget_batches(config, CUDA, bf16, prefix_cache=7 * GIB, invariant=True, **options)(None) <= small


def test_settings_that_cannot_fit_are_refused(fractions: list[float]) -> None:
    config = QWEN3_EMBEDDING["8B"]
    with pytest.raises(EngineError, match=r"batch\.max_tokens=200000 needs"):
        memory_budget(Settings.model_validate({"batch.max_tokens": 200_000}), config, 1)
    with pytest.raises(EngineError, match="Give each replica more of the GPU"):
        memory_budget(Settings(), config, 0.5)


def test_a_cpu_has_what_is_asked_for() -> None:
    granted = memory_budget(Settings(), QWEN3_EMBEDDING["8B"], 0)
    assert granted(10**6) == 10**6
    assert granted(None) == 2048


def test_batch_invariance_and_prefixes_exclude_each_other() -> None:
    assert Settings(batch_invariant=True).batch_invariant
    with pytest.raises(ValueError, match=r"unset batch\.prefix_cache_mb"):
        Settings.model_validate({"batch_invariant": True, "batch.prefix_cache_mb": 1})
