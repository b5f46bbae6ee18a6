"""Which dtypes a benchmark run measures: those asked for, as far as the device takes them, or all that it has instructions for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from serve_app.engine import cpu, fp8
from serve_app.engine.device import pick_device
from serve_app.engine.int8_choice import kinds_here
from serve_app.engine.precision import pick_precision
from serve_app.errors import EngineError

ALL = "all"


def native_dtypes(device: torch.device) -> list[str]:
    """The dtypes that `device` multiplies by instructions of its own, the engine's default first.

    Others may run too, but at the pace of a loop: a product of a few thousand rows then takes minutes.
    """
    if device.type == "cuda":
        has_fp8 = torch.cuda.get_device_capability(device) >= fp8.OLDEST_CAPABILITY
        return ["bfloat16", "fp8"] if has_fp8 else ["bfloat16"]
    has = {"float32": True, "bfloat16": cpu.multiplies_bfloat16(), "int8": bool(kinds_here())}
    return [dtype for dtype, there in has.items() if there]


def chosen_dtypes(asked: Sequence[str] | None, device: torch.device) -> list[str]:
    """What `--dtypes` means: the device's default for None, `native_dtypes` for `all`, else what it says.

    Raises `SystemExit`, saying what to do, for one that the engine refuses on `device`: before anything is measured.
    """
    if asked is None:
        return native_dtypes(device)[:1]
    if list(asked) == [ALL]:
        return native_dtypes(device)
    for dtype in asked:
        try:
            pick_precision(dtype, device)
        except EngineError as error:
            raise SystemExit(f"--dtypes {dtype}: {error} `--dtypes {ALL}` takes all that suit this machine.") from error
    return list(asked)


def chosen_device(asked: str | None) -> torch.device:
    """What `--device` means. Raises `SystemExit` for one that isn't there."""
    try:
        return pick_device(asked)
    except EngineError as error:
        raise SystemExit(f"--device: {error}") from error
