"""Batches as they go to the device: one copy, and parts that give what the whole gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.engine import attention, packing
from serve_app.engine.model import Model
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.packing import pack
from serve_app.engine.random_weights import random_weights
from serve_app.engine.transfer import cut, staged, to_device
from tests.allocated import peak_bytes
from tests.checkpoints import SHAPES, random_ids

CPU = torch.device("cpu")


def test_arrays_of_both_kinds_share_one_buffer() -> None:
    arrays = [
        np.array(a, t) for a, t in (([5, -1], np.int64), ([1, 2, 3], np.int32), ([], np.int32), ([2**40], np.int64))
    ]
    buffer, places = staged(arrays, pinned=False)
    assert buffer.dtype == torch.int64
    assert len(buffer) == 2 + 2 + 0 + 1
    for found, array in zip(cut(buffer.clone(), places), arrays, strict=True):
        np.testing.assert_array_equal(found.numpy(), array)
        assert found.numpy().dtype == array.dtype


def test_a_batch_goes_to_the_device_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(arrays: list[np.ndarray], device: torch.device) -> list[torch.Tensor]:
        calls.append(len(arrays))
        return to_device(arrays, device)

    monkeypatch.setattr(packing, "to_device", counted)
    model = Model(SHAPES["demo"], random_weights(SHAPES["demo"], CPU, torch.float32))
    prefix = model.prefix(np.arange(9))
    calls.clear()
    batch = pack(random_ids([3, 100, 20], 1000), CPU, [prefix, None, None], part_tokens=50)
    assert len(calls) == 1
    assert batch.positions[:4].tolist() == [9, 10, 11, 0]
    assert batch.last.tolist() == [2, 102, 122]
    assert batch.whole.bounds.tolist() == [0, 3, 103, 123]
    assert batch.whole.key_bounds.tolist() == [0, 12, 112, 132]
    assert batch.whole.key_rows is not None
    assert batch.whole.key_rows.tolist() == [*range(123, 132), *range(123)]
    assert [(begin, part.lengths, part.earlier) for begin, part in batch.parts] == [
        (0, [3, 47], 0),
        (50, [50], 47),
        (100, [3, 20], 97),
    ]
    assert batch.parts[2][1].key_bounds.tolist() == [0, 100, 120]


@pytest.mark.parametrize(("shape", "part_tokens"), [("demo", 7), ("one-key-head", 7), ("no-sharing", 64)])
def test_parts_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, shape: str, part_tokens: int) -> None:
    monkeypatch.setattr(attention, "MASK_ENTRIES", 1000)  # so that masks come in blocks too
    config = SHAPES[shape]
    weights = random_weights(config, CPU, torch.float32)
    whole, parted = Model(config, weights), Model(config, weights, part_tokens=part_tokens)
    ids = random_ids([1, 3, 3, 64, 7, 130, 14], config.vocab_size)
    one, other = random_ids([20, 70], config.vocab_size, seed=1)
    assert np.allclose(parted.forward(parted.pack(ids)), whole.forward(whole.pack(ids)), atol=2e-6)
    expected = whole.forward(whole.pack([*ids, *(np.append(other, each) for each in ids), np.append(one, ids[-1])]))
    assert torch.allclose(parted.prefix(other).keys, whole.prefix(other).keys, atol=1e-4)
    kept, short = parted.prefix(other), parted.prefix(one)
    prefixes = [None] * len(ids) + [kept] * len(ids) + [short]
    found = parted.forward(parted.pack([*ids, *ids, ids[-1]], prefixes))
    assert np.allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("prefixed", [False, True])
def test_an_input_of_32k_tokens_needs_memory_in_proportion(tmp_path: Path, prefixed: bool) -> None:
    config = ModelConfig(512, 32, 64, 2, 2, 1, 16, max_position_embeddings=40960)
    model = Model(config, random_weights(config, CPU, torch.float32), part_tokens=2048)
    whole = Model(config, random_weights(config, CPU, torch.float32), part_tokens=40960)
    prefix = model.prefix(np.arange(30)) if prefixed else None
    long, short = random_ids([32768, 3], 512)
    peaks = []
    for tokens in (8192, 32768):
        batch = model.pack([short, long[:tokens]], [None, prefix])
        found, peak = peak_bytes(lambda batch=batch: model.forward(batch), tmp_path / "trace.json")
        peaks.append(peak)
    # A mask of every token for every other would be 2 ** 30 entries.
    assert peaks[1] <= 5 * peaks[0]
    assert peaks[1] < 2**27
    if not prefixed:
        assert np.allclose(found, whole.forward(whole.pack([short, long])), atol=1e-5)
