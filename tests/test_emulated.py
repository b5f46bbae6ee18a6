"""The emulated device: its time, its vectors, its settings."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pydantic import ValidationError

from loadtest.emulated import (
    DeviceSettings,
    EmulatedDevice,
    EmulatedSettings,
    EmulatedVectors,
    vector_of,
    vectors_of_texts,
)
from loadtest.workload import tokenizer


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def test_a_batch_takes_its_overhead_its_tokens_and_its_inputs() -> None:
    assert DeviceSettings().seconds(10, 100) == 0
    device = DeviceSettings(batch_seconds=0.5, tokens_per_second=100, inputs_per_second=10)
    assert device.seconds(10, 100) == pytest.approx(0.5 + 1 + 1)


def test_the_device_holds_its_thread_for_that_long() -> None:
    device = EmulatedDevice(DeviceSettings(batch_seconds=0.05), hidden_size=8)
    began = time.monotonic()
    batch = device([ids(1, 2), ids(3)])
    assert time.monotonic() - began >= 0.05
    assert batch.vectors.shape == (2, 8)
    assert batch.vectors.dtype == np.float32
    assert not batch.failed


def test_a_vector_depends_on_its_ids_and_nothing_else() -> None:
    first = vector_of(ids(1, 2, 3), 128)
    assert (first == vector_of(ids(1, 2, 3), 128)).all()
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-6)
    others = [vector_of(each, 128) for each in (ids(1, 2), ids(3, 2, 1), ids(1, 2, 4))]
    assert all(abs(float(first @ other)) < 0.5 for other in others)
    # The number in a reply that was right yesterday: a change here makes two versions disagree.
    assert first[:3] == pytest.approx(FIRST_VALUES, abs=1e-6)


FIRST_VALUES = (0.007154, -0.032794, -0.032290)


def test_the_vectors_of_texts_are_those_of_their_tokens() -> None:
    texts = ["one", "two words"]
    wanted = EmulatedVectors().encode(tokenizer().encode_batch(texts))
    assert (vectors_of_texts(texts) == wanted).all()


def test_settings_name_the_device_beside_the_product() -> None:
    settings = EmulatedSettings.model_validate({"device.inputs_per_second": "100", "replicas": "4"})
    assert settings.device.inputs_per_second == 100
    assert settings.replicas == 4
    changed = settings.with_live({"batch.max_inputs": 7}, ["batch"])
    assert changed.batch.max_inputs == 7
    assert changed.device == settings.device
    with pytest.raises(ValidationError):
        EmulatedSettings.model_validate({"device.speed": 1})
