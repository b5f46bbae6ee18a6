"""The model as clients may know it: its names and prompts, from the checkpoint and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.cluster.served import fingerprint, open_model, run_with
from serve_app.config import Settings
from serve_app.errors import CheckpointError
from serve_app.types import ServedModel
from tests.checkpoints import checkpoint, copy_of, edit_json

FILE = "config_sentence_transformers.json"
QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of(checkpoint(), tmp_path)


def prompts(folder: Path, **settings: str) -> dict[str, str]:
    return dict(open_model(Settings(model=str(folder), prompts=settings)).served.prompts)


def test_the_checkpoint_s_prompts(folder: Path) -> None:
    assert prompts(folder) == {"query": QUERY, "document": ""}


def test_the_settings_prompts_add_to_them_and_replace_them(folder: Path) -> None:
    edit_json(folder / FILE, prompts={"query": "find: ", "s2s": "same: "})
    assert prompts(folder, query="own: ", faq="Q: ") == {"query": "own: ", "s2s": "same: ", "faq": "Q: "}


@pytest.mark.parametrize("value", [1, ["a"], {"a": "b"}])
def test_a_prompt_that_is_no_text_is_refused(folder: Path, value: Any) -> None:
    edit_json(folder / FILE, prompts={"query": value})
    with pytest.raises(CheckpointError, match="the prompt 'query' isn't text"):
        prompts(folder)


def test_aliases() -> None:
    settings = Settings(model=str(checkpoint()), model_aliases=["embed-multilingual-v3.0", "text-embedding-3-small"])
    assert open_model(settings).served.aliases == ("embed-multilingual-v3.0", "text-embedding-3-small")


@pytest.mark.parametrize(
    ("num_gpus", "settings", "known"),
    [
        (0, {}, ("float32", "cpu", 2048, 512)),
        (1, {}, ("bfloat16", "gpu", 16_384, 512)),
        (0.5, {"dtype": "float32", "batch": {"max_tokens": 4096, "max_inputs": 8}}, ("float32", "gpu", 4096, 8)),
        (0, {"dtype": "bfloat16"}, ("bfloat16", "cpu", 2048, 512)),
    ],
)
def test_how_it_is_run(num_gpus: float, settings: dict[str, Any], known: tuple[Any, ...]) -> None:
    served = run_with(ServedModel("a", 64, 512), Settings(**settings), num_gpus)
    assert (served.dtype, served.device, served.max_batch_tokens, served.max_batch_inputs) == known
    assert (served.id, served.dimensions, served.max_input_tokens) == ("a", 64, 512)


def test_what_gives_other_vectors_has_another_fingerprint(folder: Path) -> None:
    named = [{"dtype": "auto"}, {"dtype": "bfloat16"}, {"dtype": "int8"}, {"dtype": "int8", "replicas": 2}]
    found = [fingerprint(Settings.model_validate({"model": str(folder), **settings}), folder) for settings in named]
    assert len(set(found)) == 3
    assert found[2] == found[3]
