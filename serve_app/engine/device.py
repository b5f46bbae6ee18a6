"""Which device and dtype the engine computes with. Nothing is chosen silently that the caller named
otherwise."""

from __future__ import annotations

import torch

from serve_app.errors import EngineError

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or CUDA if there is one, else CPU.

    Raises `EngineError` for a device that isn't there or that the engine has no kernels for.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise EngineError(f"device {device!r}: torch doesn't know it, use 'cpu' or 'cuda'") from error
    if picked.type not in {"cpu", "cuda"}:
        raise EngineError(f"device {device!r}: only 'cpu' and 'cuda' are supported")
    if picked.type == "cuda":
        if not torch.cuda.is_available():
            raise EngineError(f"device {str(device)!r}: torch {torch.__version__} finds no CUDA device here")
        picked = torch.device("cuda", torch.cuda.current_device() if picked.index is None else picked.index)
        if picked.index >= torch.cuda.device_count():
            raise EngineError(f"device {str(device)!r}: there are only {torch.cuda.device_count()} CUDA devices")
    return picked


def memory_bytes(device: torch.device) -> dict[str, int]:
    """Memory of a CUDA device: `total`, what this process has `allocated` for tensors, and `reserved` with what it keeps for later."""
    return {
        "total": torch.cuda.get_device_properties(device).total_memory,
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or bfloat16 on CUDA and float32 on CPU. Raises `EngineError` for any other than
    these two: see `precision` for what isn't a dtype of its own."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name in {"float16", "half", "fp16"}:
        raise EngineError(
            "dtype float16 is refused: activations of the 8B model overflow it and texts come out as NaN. "
            "bfloat16 takes the same memory and time."
        )
    if name not in _DTYPES:
        raise EngineError(
            f"dtype {name!r} isn't supported, use 'bfloat16', 'float32', 'int8' (CPU) or 'fp8' (newer GPUs)"
        )
    return _DTYPES[name]
