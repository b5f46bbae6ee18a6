"""A checkpoint's safetensors files, read a part at a time: beside the model itself, little more than one part is ever in memory.

Files are opened anew for each part. The pages of a mapped file count as the process's memory until the mapping goes, and a mapping
kept for the model's lifetime would turn a file overwritten in its place into a crash or into wrong vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from serve_app.engine import heap
from serve_app.engine.layout import tensor_shapes
from serve_app.engine.model_config import ModelConfig
from serve_app.engine.weights import LayerWeights, Weights, empty_layer, named_parts
from serve_app.errors import CheckpointError

_INDEX = "model.safetensors.index.json"
_STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_PART_BYTES = 32 * 2**20


def load_weights(path: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Weights:
    """The weights in the checkpoint folder `path`, layers read when they're asked for, in `dtype` on `device`.

    Where float32 is computed with, the embedding stays in the dtype that it's stored in: its rows are cast when
    they are looked up, to the same values in half the memory.

    Raises `CheckpointError`, naming file and tensor, for missing or unknown tensors, shapes that differ
    from `config`, stored dtypes other than float32, bfloat16 and float16, and files that can't be read.
    """
    stored = StoredTensors(path, config)
    kept = stored.dtype("embed_tokens.weight") if dtype == torch.float32 else dtype
    embedding = torch.empty(config.vocab_size, config.hidden_size, dtype=kept, device=device)
    norm = torch.empty(config.hidden_size, dtype=dtype, device=device)
    stored.read({"embed_tokens.weight": embedding, "norm.weight": norm})
    return Weights(embedding, StoredLayers(stored, config, device, dtype), norm)


class StoredTensors:
    """The tensors in the folder `path`, all looked over before any is read. Names are without prefix.

    Raises `CheckpointError` as `load_weights` does.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._stored: dict[str, tuple[Path, str, torch.dtype]] = {}
        shapes = tensor_shapes(config)
        unknown: list[str] = []
        for file in _weight_files(path):
            for name, tensor in _headers(file):
                plain = name.removeprefix("model.")
                if plain in shapes:
                    self._stored[plain] = file, name, _checked(file, name, tensor, shapes[plain])
                elif plain != "lm_head.weight" and not plain.endswith("rotary_emb.inv_freq"):
                    unknown.append(name)
        missing = [name for name in shapes if name not in self._stored]
        if missing:
            raise CheckpointError(f"{path}: {_listed(missing)} missing from the weights")
        if unknown:
            raise CheckpointError(
                f"{path}: {_listed(unknown)} in the weights, but not in a Qwen3 model of these shapes"
            )

    def dtype(self, name: str) -> torch.dtype:
        """What a tensor is stored in."""
        return self._stored[name][2]

    def read(self, wanted: dict[str, Tensor]) -> None:
        """Fill the tensors of `wanted` with those stored under these names. Raises `CheckpointError` if they can't be read."""
        for name, destination in wanted.items():
            file, stored, dtype = self._stored[name]
            rows = max(1, _PART_BYTES * len(destination) // (destination.numel() * dtype.itemsize))
            try:
                for begin in range(0, len(destination), rows):
                    with safe_open(file, framework="pt") as tensors:
                        part = tensors.get_slice(stored)[begin : begin + rows]
                        destination[begin : begin + rows].copy_(part)
                        del part  # it holds the mapping
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file}: not readable as safetensors ({error})") from error


class StoredLayers(Sequence[LayerWeights]):
    """A checkpoint's layers, each read anew whenever it's asked for, in `dtype` on `device`."""

    def __init__(self, stored: StoredTensors, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._stored = stored
        self._config = config
        self._device = device
        self._dtype = dtype

    def read_as(self, dtype: torch.dtype) -> StoredLayers:
        """The same layers in another dtype."""
        return StoredLayers(self._stored, self._config, self._device, dtype)

    def __len__(self) -> int:
        return self._config.num_hidden_layers

    @overload
    def __getitem__(self, index: int) -> LayerWeights: ...
    @overload
    def __getitem__(self, index: slice) -> list[LayerWeights]: ...
    def __getitem__(self, index: int | slice) -> LayerWeights | list[LayerWeights]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        heap.trim()  # what the layer before left behind
        layer = empty_layer(self._config, self._device, self._dtype)
        parts = named_parts(layer, self._config)
        self._stored.read({f"layers.{index}.{name}": tensor for name, tensor in parts.items()})
        return layer


def _headers(file: Path) -> Iterator[tuple[str, Any]]:
    """Names and slices of a file's tensors. Raises `CheckpointError` for a file that isn't one."""
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_slice(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not readable as safetensors ({error})") from error


def _weight_files(path: Path) -> list[Path]:
    index = path / _INDEX
    if not index.is_file():
        if not (path / "model.safetensors").is_file():
            raise CheckpointError(f"{path}: neither model.safetensors nor {_INDEX} is there; only safetensors is read")
        return [path / "model.safetensors"]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index with a weight_map ({error!r})") from error
    files = [path / name for name in sorted(names)]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{index}: names {_listed(absent)}, which isn't there")
    return files


def _checked(file: Path, name: str, stored: Any, wanted: tuple[int, ...]) -> torch.dtype:
    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
    if shape != wanted:
        raise CheckpointError(f"{file}: {name} has shape {list(shape)}, config.json asks for {list(wanted)}")
    if dtype not in _STORED_DTYPES:
        raise CheckpointError(f"{file}: {name} is stored as {dtype}, only F32, BF16 and F16 are read")
    return _STORED_DTYPES[dtype]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(names)[:5]) + more
