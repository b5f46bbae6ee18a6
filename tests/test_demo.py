from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.demo import DEMO_CONFIG, demo_checkpoint, make_checkpoint
from serve_app.errors import CheckpointError
from tests.checkpoints import checkpoint, with_shape


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def in_new_process(*arguments: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, check=True, capture_output=True, text=True
    ).stdout


def test_default_is_small_and_has_the_published_file_layout() -> None:
    assert DEMO_CONFIG.parameters <= 1_000_000
    assert set(contents(checkpoint())) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "README.md",
    }
    assert Checkpoint.read(checkpoint()).demo


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


def test_cached_copy_is_made_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: demo_checkpoint(tmp_path), range(8)))
    assert len(folders) == 1
    assert [file.name for file in tmp_path.iterdir()] == [folders.pop().name]  # nothing left aside
    folder = demo_checkpoint(tmp_path)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert demo_checkpoint(tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert contents(folder) == contents(make_checkpoint(tmp_path / "again"))


def test_failed_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("serve_app.engine.demo.write_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        demo_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serve_app.engine.checkpoint import Checkpoint, resolve;"
        "from serve_app.engine.demo import demo_checkpoint; from serve_app.engine.tokenizer import Tokenizer;"
        f"folder = resolve(str(demo_checkpoint(Path({str(tmp_path)!r}))), weights=False);"
        "Checkpoint.read(folder); Tokenizer.read(folder).encode('x');"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert in_new_process("-c", code).strip() == "[]"


def test_loads_in_sentence_transformers_and_tells_texts_apart() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint()), device="cpu")
    assert model.prompts["query"].startswith("Instruct: Given a web search query")
    vectors = model.encode(["The capital of China is Beijing.", "Bread needs flour.", "重力"])
    assert vectors.shape == (3, 128)
    assert np.abs(vectors @ vectors.T - np.eye(3)).max() < 0.9


def test_refuses_vocabularies_it_cannot_fill(tmp_path: Path) -> None:
    for size in (100, 1_000_000):
        with pytest.raises(CheckpointError, match=f"not {size}: the training text is small"):
            make_checkpoint(tmp_path, with_shape(vocab_size=size))


def test_refuses_other_stored_dtypes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stored as float32 or bfloat16, not float16"):
        make_checkpoint(tmp_path, with_shape(dtype="float16"))
