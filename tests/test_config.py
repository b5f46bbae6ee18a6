"""The settings tree: defaults, dotted keys, what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app.config import EMBEDDER_LIVE, GATEWAY_LIVE, Settings
from serve_app.types import Limits


def test_defaults_are_the_promised_ones() -> None:
    settings = Settings()
    assert settings.model == "embedserve/demo"
    assert settings.limits.as_limits() == Limits(8192, 2048, 300_000, 8 * 1024 * 1024, 96)
    assert (settings.model_aliases, settings.prompts) == ([], {})


def test_text_arguments_as_serve_run_passes_them() -> None:
    settings = Settings.model_validate(
        {"replicas": "2", "num_gpus": "0.5", "limits.max_inputs": "7", "access_log": "true"}
    )
    assert (settings.replicas, settings.num_gpus, settings.limits.max_inputs, settings.access_log) == (2, 0.5, 7, True)


def test_aliases_and_prompts_as_text_or_not() -> None:
    text = {"model_aliases": "embed-v4.0, text-embedding-3-small", "prompts.faq": "Instruct: Answer it\nQuery:"}
    both = {
        "model_aliases": ["embed-v4.0", "text-embedding-3-small"],
        "prompts": {"faq": "Instruct: Answer it\nQuery:"},
    }
    assert Settings.model_validate(text) == Settings.model_validate(both)
    assert Settings.model_validate(both).model_aliases == both["model_aliases"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompts": {"faq": 1}},
        {"model_aliases": [1]},
        {"limits.max_cohere_texts": 0},
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


def test_a_user_config_replaces_fields_of_live_sections() -> None:
    settings = Settings.model_validate({"replicas": 3, "limits.max_inputs": 7, "batch.max_inputs": 8})
    changed = settings.with_live({"limits": {"max_body_bytes": 4096}, "batch.max_tokens": 64}, GATEWAY_LIVE)
    assert (changed.limits.max_inputs, changed.limits.max_body_bytes) == (7, 4096)
    assert (changed.batch.max_inputs, changed.batch.max_tokens, changed.replicas) == (8, 64, 3)
    assert settings.with_live(changed.live(GATEWAY_LIVE), GATEWAY_LIVE) == changed
    assert settings.with_live({}, GATEWAY_LIVE) == settings


@pytest.mark.parametrize(
    ("user_config", "named"),
    [
        ({"replicas": 2}, "replicas"),
        ({"limits": {"max_inputs": 2}}, "limits"),
        ({"batch": {"colour": "blue"}}, "colour"),
        ({"batch": {"max_inputs": 0}}, "max_inputs"),
        ({"batch": 3}, "batch"),
        ({"batch.max_inputs": 1, "batch": {}}, "batch"),
    ],
)
def test_refused_in_a_user_config(user_config: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Settings().with_live(user_config, EMBEDDER_LIVE)
