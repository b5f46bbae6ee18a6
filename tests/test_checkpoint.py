from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from serve_app.engine import checkpoint as module
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.demo import DEMO_CONFIG
from serve_app.engine.model_config import QWEN3_EMBEDDING
from serve_app.errors import CheckpointError
from serve_app.types import DEMO_MODEL_ID
from tests.checkpoints import checkpoint, copy_of, edit_json, remove_field


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of(checkpoint(), tmp_path)


def test_reads_config_and_prompts() -> None:
    read = Checkpoint.read(checkpoint())
    assert read.config == DEMO_CONFIG
    assert read.name == "demo"
    assert read.revision is None
    assert read.demo
    assert read.prompts["document"] == ""
    assert read.prompts["query"].endswith("\nQuery:")


def test_published_sizes_have_the_published_parameter_counts() -> None:
    counts = {size: config.parameters for size, config in QWEN3_EMBEDDING.items()}
    assert counts == {"0.6B": 595_776_512, "4B": 4_021_774_336, "8B": 7_567_295_488}
    assert QWEN3_EMBEDDING["0.6B"].flops_per_token(512) == pytest.approx(0.940e9, rel=1e-3)


def test_hugging_face_cache_gives_name_and_revision(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-Embedding-0.6B" / "snapshots" / "97b0c614"
    shutil.copytree(checkpoint(), snapshot)
    read = Checkpoint.read(snapshot)
    assert (read.name, read.revision) == ("Qwen/Qwen3-Embedding-0.6B", "97b0c614")


def test_newer_config_style(folder: Path) -> None:
    file = folder / "config.json"
    for name in ("rope_theta", "rope_scaling", "torch_dtype"):
        remove_field(file, name)
    layers = ["full_attention"] * DEMO_CONFIG.num_hidden_layers
    rope = {"rope_theta": 5e5, "rope_type": "default"}
    edit_json(file, dtype="bfloat16", rope_parameters=rope, layer_types=layers)
    read = Checkpoint.read(folder)
    assert (read.config.rope_theta, read.config.dtype) == (5e5, "bfloat16")


def test_newer_pooling_style(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 128, "pooling_mode": "lasttoken"}')
    Checkpoint.read(folder)


def test_plain_folder_without_sentence_transformers_files(folder: Path) -> None:
    for name in ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"):
        (folder / name).unlink()
    remove_field(folder / "config.json", "embedserve_demo")
    read = Checkpoint.read(folder)
    assert read.prompts == {}
    assert not read.demo


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is .*yarn"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6}}, "rope_parameters is .*linear"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "use_sliding_window is true"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has .*sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"hidden_size": 0}, "hidden_size is 0, a positive integer"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers is '4'"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"head_dim": 33}, "head_dim 33 is odd"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 isn't a multiple of num_key_value_heads 3"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1, a positive number"),
        ({"rope_theta": None}, "rope_theta is None"),
    ],
)
def test_refuses_other_models(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", **fields)
    with pytest.raises(CheckpointError, match=f"config.json: {message}"):
        Checkpoint.read(folder)


def test_refuses_missing_field(folder: Path) -> None:
    remove_field(folder / "config.json", "head_dim")
    with pytest.raises(CheckpointError, match="head_dim is None"):
        Checkpoint.read(folder)


def test_refuses_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not readable as JSON"), ("[1]", "a JSON object is needed, found list")]
)
def test_refuses_broken_config(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.read(folder)


def test_refuses_mean_pooling(folder: Path) -> None:
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True)
    with pytest.raises(CheckpointError, match=r"pooling is \['mean_tokens'\], only \['lasttoken'\]"):
        Checkpoint.read(folder)


def test_refuses_further_modules(folder: Path) -> None:
    (folder / "modules.json").write_text(
        '[{"idx": 0, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]'
    )
    with pytest.raises(CheckpointError, match=r"models\.Dense' isn't supported"):
        Checkpoint.read(folder)


def test_resolve_takes_a_folder_as_it_is(folder: Path) -> None:
    assert resolve(str(folder)) == folder


def test_resolve_makes_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "demo_checkpoint", lambda: tmp_path)
    assert resolve(DEMO_MODEL_ID) == tmp_path


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_resolve_says_that_a_folder_is_missing(model: str) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        resolve(model)


@pytest.mark.parametrize("weights", [True, False])
def test_resolve_fetches_only_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: bool) -> None:
    asked: dict[str, Any] = {}

    def download(model: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(model=model, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(module, "snapshot_download", download)
    assert resolve("owner/name", "abc", weights=weights) == tmp_path
    assert (asked["model"], asked["revision"]) == ("owner/name", "abc")
    assert "tokenizer.json" in asked["patterns"]
    assert ("model*.safetensors" in asked["patterns"]) is weights


def test_resolve_says_what_to_do_when_nothing_can_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host\nat length")

    monkeypatch.setattr(module, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=r"ConnectionError: no route to host\).*HF_TOKEN.*local folder") as caught:
        resolve("owner/name", "abc")
    assert "owner/name at revision abc" in str(caught.value)
