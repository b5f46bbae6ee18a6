"""What the device itself reaches: matrix products and copies, measured in the run that they are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from loadtest.engine_products import PRODUCTS
from serve_app.engine.model_config import ModelConfig

_COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
_SQUARES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that the clock sees what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest of the calls that fit into so many, at least three after one to warm up."""
    run()
    synchronize(device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        begin = time.perf_counter()
        run()
        synchronize(device)
        taken.append(time.perf_counter() - begin)
    return min(taken)


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of a layer's four products."""
    hidden, query, inner = config.hidden_size, config.query_size, config.intermediate_size
    return {
        "qkv": (hidden, query + 2 * config.key_value_size),
        "output": (query, hidden),
        "gate_up": (hidden, 2 * inner),
        "down": (inner, hidden),
    }


def copy_rate(device: torch.device, seconds: float) -> float:
    """Bytes a second of a large copy, those read and those written."""
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / fastest(lambda: target.copy_(source), device, seconds)


def product_rates(
    config: ModelConfig, device: torch.device, dtype: str, rows: tuple[int, ...], seconds: float
) -> dict[str, Any]:
    """FLOP/s of the products of `config` with so many rows, and of large squares, by the fastest call that torch has for the dtype.

    `best` is the highest of all: the ceiling. `model` holds, for each number of rows, the rate of a layer's four products together.
    """
    squares, model, calls = {}, {}, {}
    for size in _SQUARES[device.type]:
        rate, calls[str(size)] = _rate(device, dtype, size, size, size, seconds)
        squares[str(size)] = rate
    for count in rows:
        flops = taken = 0.0
        for name, (width, outputs) in layer_shapes(config).items():
            rate, calls[f"{count} {name}"] = _rate(device, dtype, count, width, outputs, seconds)
            flops += 2.0 * count * width * outputs
            taken += 2.0 * count * width * outputs / rate
        model[str(count)] = flops / taken
    return {"best": max(*squares.values(), *model.values()), "squares": squares, "model": model, "calls": calls}


def _rate(device: torch.device, dtype: str, rows: int, width: int, outputs: int, seconds: float) -> tuple[float, str]:
    """FLOP/s of one product and the name of the call that reached it. Raises `RuntimeError` where none runs."""
    rates, failures = {}, []
    for name, make in PRODUCTS[dtype].items():
        try:
            with torch.inference_mode():
                rates[name] = (
                    2.0 * rows * width * outputs / fastest(make(device, rows, width, outputs), device, seconds)
                )
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            failures.append(f"{name}: {str(error).splitlines()[0]}")
    if not rates:
        raise RuntimeError(f"no {dtype} product runs on {device}: {'; '.join(failures)}")
    best = max(rates, key=lambda name: rates[name])
    return rates[best], best
