from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.demo import demo_checkpoint, make_checkpoint
from serve_app.errors import CheckpointError
from serve_app.types import DEMO_MODEL_ID
from tests.checkpoints import checkpoint, with_shape
from tests.reference import assert_same, expected


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def in_new_process(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("folder", [demo_checkpoint(), checkpoint()], ids=["trained", "random"])
def test_has_the_published_file_layout(folder: Path) -> None:
    assert set(contents(folder)) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "README.md",
    }
    read = Checkpoint.read(folder)
    assert read.demo
    assert read.prompts["query"].startswith("Instruct: Given a web search query")
    assert read.prompts["document"] == ""


def test_the_trained_one_is_small() -> None:
    assert sum(map(len, contents(demo_checkpoint()).values())) <= 10e6
    assert resolve(DEMO_MODEL_ID) == demo_checkpoint()


def test_bytes_depend_on_the_arguments_alone(tmp_path: Path) -> None:
    first = contents(make_checkpoint(tmp_path / "first"))
    in_new_process("-m", "serve_app.engine.demo", str(tmp_path / "second"), PYTHONHASHSEED="123")
    assert contents(tmp_path / "second") == first
    other = contents(make_checkpoint(tmp_path / "other", seed=1))
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_command_line_shapes(tmp_path: Path) -> None:
    options = ["--layers", "2", "--hidden", "64", "--shards", "2", "--dtype", "bfloat16", "--seed", "3"]
    in_new_process("-m", "serve_app.engine.demo", str(tmp_path), *options)
    config = Checkpoint.read(tmp_path).config
    assert (config.num_hidden_layers, config.hidden_size, config.dtype) == (2, 64, "bfloat16")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}


def test_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from serve_app.engine.checkpoint import Checkpoint, resolve;"
        "from serve_app.engine.demo import demo_checkpoint; from serve_app.engine.tokenizer import Tokenizer;"
        "folder = resolve(str(demo_checkpoint()), weights=False);"
        "Checkpoint.read(folder); Tokenizer.read(folder).encode('x');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert in_new_process("-c", code).strip() == "[]"


def test_loads_in_sentence_transformers_with_the_same_vectors() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(demo_checkpoint()), device="cpu", model_kwargs={"dtype": "float32"})
    texts = ["The capital of China is Beijing.", "Bread needs flour.", "重力"]
    assert_same(model.encode(texts), expected(texts))
    task = "Given a web search query, retrieve relevant passages that answer the query"
    assert_same(model.encode(texts, prompt_name="query"), expected(texts, task))


def test_nearest_in_another_language() -> None:
    documents = [
        "El banco central baja los tipos de interés",
        "El equipo local gana en la prórroga",
        "地震で家屋が倒壊",
    ]
    queries = ["central bank cuts rates", "home side wins in extra time", "houses collapse in earthquake"]
    scores = (
        expected(queries, "Given a web search query, retrieve relevant passages that answer the query")
        @ expected(documents).T
    )
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_refuses_vocabularies_it_cannot_fill(tmp_path: Path) -> None:
    for size in (100, 1_000_000):
        with pytest.raises(CheckpointError, match=f"not {size}: the training text is small"):
            make_checkpoint(tmp_path, with_shape(vocab_size=size))


def test_refuses_other_stored_dtypes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stored as float32 or bfloat16, not float16"):
        make_checkpoint(tmp_path, with_shape(dtype="float16"))
