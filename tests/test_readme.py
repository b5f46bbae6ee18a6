"""The README's Python examples run as printed, but for the address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.api.prompts import DEFAULT_PROMPTS
from tests.running import RunningService

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def example(containing: str) -> str:
    [block] = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in block]
    return block


@pytest.mark.cluster
def test_openai_example(service: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    exec(example("from openai import").replace("http://localhost:8000", service.url), {})
    assert capsys.readouterr().out == "大地震で多くの家が倒れた\n"


@pytest.mark.cluster
def test_cohere_example(service: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    exec(example("import cohere").replace("http://localhost:8000", service.url), {})
    assert capsys.readouterr().out == "128 128 16\n"


def test_the_prompts_it_quotes_are_the_ones_in_use() -> None:
    for name in ("classification", "clustering"):
        assert f"`{DEFAULT_PROMPTS[name]}`".replace("\n", "\\n") in README


@pytest.mark.cluster
def test_hugging_face_example(service: RunningService) -> None:
    exec(example("sentence_similarity(").replace("http://localhost:8000", service.url), {})


def test_engine_example() -> None:
    names: dict[str, object] = {}
    exec(example("Engine.load").replace("Qwen/Qwen3-Embedding-0.6B", "embedserve/demo"), names)
    assert names["vectors"].shape == (1, 128)  # type: ignore[attr-defined]


def test_make_targets_and_commands_that_it_names_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    from serve_app.cli import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {str(group.name) for group in app.registered_groups}
    assert set(re.findall(r"^embedserve ([a-z]+)", README, re.MULTILINE)) <= commands
