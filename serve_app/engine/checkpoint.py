"""Where a model's files are, and whether they are a Qwen3 embedding checkpoint that this engine computes
exactly.

Imports neither torch nor transformers: the gateway reads checkpoints too, for the tokenizer and the limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from serve_app.engine.demo import DEMO_MARKER, demo_checkpoint
from serve_app.engine.model_config import ModelConfig, parse_config
from serve_app.errors import CheckpointError
from serve_app.types import DEMO_MODEL_ID

__all__ = ["Checkpoint", "ModelConfig", "is_hub_id", "resolve"]

_DESCRIPTION_FILES = [
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "*_Pooling/config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
_WEIGHT_FILES = ["model*.safetensors", "model.safetensors.index.json"]
_MODULES = {"Transformer", "Pooling", "Normalize"}
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def resolve(model: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder with the files of `model`: an existing local folder, `embedserve/demo`, or a Hugging Face
    id.

    A Hugging Face id is fetched into the usual Hugging Face cache; `weights=False` fetches only configuration
    and tokenizer. Raises `CheckpointError` when there is no such folder and the id can't be fetched.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model == DEMO_MODEL_ID:
        return demo_checkpoint()
    if not is_hub_id(model):
        raise CheckpointError(f"{model}: there is no such folder")
    patterns = _DESCRIPTION_FILES + (_WEIGHT_FILES if weights else [])
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise CheckpointError(
            f"{model}{f' at revision {revision}' if revision else ''}: neither a local folder nor fetched "
            f"from Hugging Face ({type(error).__name__}: {_first_line(error)}). Check the spelling and the "
            "network; set HF_TOKEN if the repository is private; without a network, pass a local folder."
        ) from error


def is_hub_id(model: str) -> bool:
    """Whether `model` can only be an id on Hugging Face: no folder here, nor written like one, nor the demo checkpoint."""
    if model == DEMO_MODEL_ID or Path(model).expanduser().is_dir():
        return False
    return not model.startswith((".", "/", "~")) and model.count("/") <= 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder that was read and found servable.

    `name` is the Hugging Face id for a folder of the Hugging Face cache, else the folder's own name;
    `revision` the commit if the folder says so. `prompts` maps a prompt's name to the text put before an
    input. `demo` is true for the checkpoint that comes with this package, and those it makes for tests.
    """

    path: Path
    config: ModelConfig
    name: str
    revision: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    demo: bool = False

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read the description files in `path`; weights and tokenizer are not opened.

        Raises `CheckpointError` saying which file and field can't be served, and what was found there.
        """
        refuse_adapter(path)
        fields = _read_object(path / "config.json")
        if fields is None:
            raise CheckpointError(f"{path}: config.json is missing, this isn't a model folder")
        config = parse_config(fields, str(path / "config.json"))
        check_modules(path)
        name, revision = _identity(path)
        prompts = (_read_object(path / "config_sentence_transformers.json") or {}).get("prompts") or {}
        demo = fields.get(DEMO_MARKER) is True
        return cls(path, config, name, revision, {k: v or "" for k, v in prompts.items()}, demo)


def refuse_adapter(path: Path) -> None:
    """Raise `CheckpointError` if there is a LoRA adapter in the folder: it would be ignored, and the base model served in its name."""
    found = [name for name in _ADAPTER_FILES if (path / name).exists()]
    if found:
        raise CheckpointError(
            f"{path}: {' and '.join(found)} say that this is an adapter for a model, which isn't applied here, and serving the base "
            "model in its name would give wrong vectors. Merge it into the weights (peft's `merge_and_unload`, then "
            "`save_pretrained` into a new folder) and serve that."
        )


def check_modules(path: Path) -> None:
    """Raise `CheckpointError` for a sentence-transformers pipeline that does anything but last-token pooling and normalising."""
    modules = _read_json(path / "modules.json")
    pooling = "1_Pooling"
    for module in modules if isinstance(modules, list) else ():
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in _MODULES:
            raise CheckpointError(
                f"{path / 'modules.json'}: module {module.get('type')!r} isn't supported, only "
                "Transformer, Pooling and Normalize are"
            )
        if kind == "Pooling":
            pooling = str(module.get("path") or pooling)
    file = path / pooling / "config.json"
    fields = _read_object(file)
    if fields is None:
        return
    modes = {
        name.removeprefix("pooling_mode_")
        for name, on in fields.items()
        if name.startswith("pooling_mode_") and on is True
    }
    if isinstance(fields.get("pooling_mode"), str):
        modes.add(fields["pooling_mode"])
    if modes != {"lasttoken"}:
        raise CheckpointError(f"{file}: pooling is {sorted(modes)}, only ['lasttoken'] is supported")


def _identity(path: Path) -> tuple[str, str | None]:
    """Name and revision, from the layout of the Hugging Face cache: models--OWNER--NAME/snapshots/COMMIT."""
    path = path.absolute()
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.parents[1].name.removeprefix("models--").replace("--", "/"), path.name
    return path.name, None


def _read_object(file: Path) -> dict[str, Any] | None:
    value = _read_json(file)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{file}: a JSON object is needed, found {type(value).__name__}")
    return value


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
