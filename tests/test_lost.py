"""A GPU that answers no more, by a device that is only said to be one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import torch

from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.lost import attempt, lost, watched
from serve_app.engine.memory import HalvingEncoder
from serve_app.errors import EngineDeadError, EngineError
from serve_app.types import TokenIds

CUDA = torch.device("cuda", 0)


def answers(device: torch.device) -> None:
    pass


def is_gone(device: torch.device) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def failing(error: Exception) -> Callable[..., EncodedBatch]:
    def fails(*_: object) -> EncodedBatch:
        raise error

    return fails


def test_only_errors_that_stay_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", answers)
    with pytest.raises(RuntimeError, match="shapes differ"):
        attempt(failing(RuntimeError("shapes differ")), CUDA)
    monkeypatch.setattr(torch.cuda, "synchronize", is_gone)
    assert lost(CUDA)
    assert not lost(torch.device("cpu"))
    with pytest.raises(EngineDeadError, match="GPU"):
        attempt(failing(RuntimeError("CUDA error: launch failed")), CUDA)
    with pytest.raises(torch.OutOfMemoryError):  # which is computed in halves
        attempt(failing(torch.OutOfMemoryError()), CUDA)
    with pytest.raises(EngineError):
        attempt(failing(EngineError("an input is refused")), CUDA)


@pytest.mark.parametrize("where", ["launch", "wait"])
async def test_a_replica_whose_gpu_is_gone_is_unhealthy(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", is_gone)
    fails = failing(RuntimeError("CUDA error: an illegal memory access was encountered"))
    launch = watched(fails if where == "launch" else lambda _: fails, CUDA)  # type: ignore[arg-type]
    encoder = HalvingEncoder(launch, hidden_size=2, lower=lambda _: None)
    batcher = Batcher(encoder, hidden_size=2, max_batch_tokens=20, max_batch_inputs=8, depth=2)
    ids: list[TokenIds] = [np.ones(3, np.int32)]
    answer = await asyncio.wait_for(batcher.submit(ids), 30)
    assert isinstance(answer.errors[0], EngineDeadError)
    assert not batcher.healthy
    await batcher.close()
