"""The settings tree: defaults, dotted keys, what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.config import Settings
from serve_app.types import Limits


def test_defaults_are_the_promised_ones() -> None:
    settings = Settings()
    assert settings.model == "embedserve/demo"
    assert settings.limits.as_limits() == Limits(8192, 2048, 300_000, 8 * 1024 * 1024)


def test_text_arguments_as_serve_run_passes_them() -> None:
    settings = Settings.model_validate(
        {"replicas": "2", "num_gpus": "0.5", "limits.max_inputs": "7", "access_log": "true"}
    )
    assert (settings.replicas, settings.num_gpus, settings.limits.max_inputs, settings.access_log) == (2, 0.5, 7, True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"colour": "blue"},
        {"limits.colour": 1},
        {"limits": {"max_inputs": 0}},
        {"limits": 3, "limits.max_inputs": 1},
        {"limits.max_inputs": 1, "limits": {}},
        {"replicas": 0},
        {"num_gpus": 1.5},
        {"num_gpus": -1},
        {"dtype": "float16"},
        {"token_ids": "tiktoken"},
        {"tiktoken_file": "x"},
        {"revision": "main"},
        {"limits.max_input_tokens": 400_000},
    ],
)
def test_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(arguments)


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().replicas = 2  # type: ignore[misc]
