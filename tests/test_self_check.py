"""What an engine is asked before it serves: each thing that can be wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.engine import self_check
from serve_app.engine.engine import Engine
from serve_app.engine.finding import failures
from serve_app.engine.model import Model
from serve_app.engine.packing import PackedBatch
from serve_app.errors import SelfCheckError
from serve_app.types import TokenIds, Vectors
from tests.checkpoints import SHAPES, checkpoint, copy_of

Forward = Callable[[Model, PackedBatch], torch.Tensor]
_forward = Model.forward


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_wrong_with_the_engine(shape: str) -> None:
    Engine.load(str(checkpoint(shape)), device="cpu")


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def mean(model: Model, batch: PackedBatch) -> torch.Tensor:
    parts = model.every_token(batch).split(np.diff([-1, *batch.last.tolist()]).tolist())
    return unit(torch.stack([part.mean(dim=0) for part in parts]))


def one_before(model: Model, batch: PackedBatch) -> torch.Tensor:
    return unit(model.every_token(batch)[(batch.last - 1).clamp(min=0)])


def leaking(model: Model, batch: PackedBatch) -> torch.Tensor:
    rows = _forward(model, batch)
    return unit(rows + 0.5 * rows.roll(1, dims=0))


def long(model: Model, batch: PackedBatch) -> torch.Tensor:
    return 3 * _forward(model, batch)


def not_a_number(model: Model, batch: PackedBatch) -> torch.Tensor:
    return _forward(model, batch) * torch.nan


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        (mean, "pooling: the vector isn't that of the last token: cosine .*, and looks like the mean of all tokens"),
        (one_before, "pooling: .*, and looks like the last token but one"),
        (leaking, "batch invariance: a text's vector depends on what is computed with it"),
        (long, "norm: vectors don't have length 1: off by 2.0000"),
        (not_a_number, "finite: 3 of 3 vectors have NaN or infinity"),
    ],
)
def test_an_engine_that_computes_wrongly_is_not_served(
    defect: Forward, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "forward", defect)
    with pytest.raises(SelfCheckError, match=said):
        Engine.load(str(checkpoint()), device="cpu")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    folder = copy_of(checkpoint(), tmp_path)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()  # the last number of the last norm, or of a layer
    file.write_bytes(content)
    with pytest.raises(SelfCheckError, match=r"finite: .* Weights are damaged"):
        Engine.load(str(folder), device="cpu")


def test_what_is_wrong_with_pooling_but_nothing_known() -> None:
    states = np.eye(4, dtype=np.float32)
    finding = self_check.check_pooling(np.array([0.6, 0.5, 0.4, -0.48], np.float32), states, "float32")
    assert not finding.passed
    assert "looks like" not in finding.said


def test_tolerance_follows_the_dtype() -> None:
    near = np.array([[1, 0.05], [1, 0]], np.float32)  # cosine 0.99875
    assert not self_check.check_batch([near[0]], near[1], "float32").passed
    assert self_check.check_batch([near[0]], near[1], "bfloat16").passed
    far = np.array([1, 0.15], np.float32)  # 0.989
    assert not self_check.check_batch([far], near[1], "bfloat16").passed
    assert self_check.check_batch([far], near[1], "int8").passed


def test_all_faults_are_told_together() -> None:
    def encode(ids: list[TokenIds]) -> Vectors:
        return np.arange(2.0, 2 + 4 * len(ids), dtype=np.float32).reshape(-1, 4)

    ids = self_check.sequences(100)
    found = self_check.check_engine(encode, lambda asked: [np.eye(4, dtype=np.float32)], ids, "float32")
    assert [finding.check for finding in failures(found)] == ["norm", "pooling", "batch invariance"]
