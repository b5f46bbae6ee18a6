"""The tables of loadtest/ROOFLINE.md that follow from shapes, data sheets and measured ceilings.

python -m loadtest.engine_roofline --measured loadtest/results/engine.json

`--measured` is a report of `loadtest.bench_engine`, whose ceilings stand for that machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.engine_datasheets import DATA_SHEETS
from loadtest.engine_floor import BYTES, Floor, floor_of
from serve_app.engine.model_config import QWEN3_EMBEDDING

LENGTHS = (16, 128, 512, 2048, 8192, 32768)
GPUS = ("H200", "L4 ", "A10G")
BATCH_TOKENS = 16_384


def work() -> Iterator[str]:
    """FLOPs a token by length, attention's share, and bytes of weights."""
    yield (
        "| model | linear, GFLOP/token | "
        + " | ".join(f"with attention at {n:,}" for n in LENGTHS)
        + " | weights, bf16 |"
    )
    yield "|---" * (len(LENGTHS) + 3) + "|"
    for size, config in QWEN3_EMBEDDING.items():
        linear = 2 * config.linear_parameters
        cells = []
        for length in LENGTHS:
            flops = config.flops_per_token(length)
            cells.append(f"{flops / 1e9:.3g} ({1 - linear / flops:.0%})")
        yield f"| {size} | {linear / 1e9:.3g} | {' | '.join(cells)} | {config.linear_parameters * 2 / 1e9:.2f} GB |"


def floors(devices: dict[str, tuple[dict[str, float], float]]) -> Iterator[str]:
    """Tokens a second that no engine passes, and milliseconds of one 16-token text, for FLOP/s by dtype and bytes a second."""
    yield "| device | dtype | model | " + " | ".join(f"{n:,}" for n in LENGTHS) + " | one text of 16, ms |"
    yield "|---" * (len(LENGTHS) + 4) + "|"
    for device, (flops, rate) in devices.items():
        for dtype, peak in flops.items():
            for size, config in QWEN3_EMBEDDING.items():
                cells = []
                for length in LENGTHS:
                    lengths = [length] * max(1, BATCH_TOKENS // length)
                    cells.append(f"{sum(lengths) / floor_of(config, lengths, dtype, peak, rate).seconds:,.0f}")
                alone: Floor = floor_of(config, [16], dtype, peak, rate)
                yield f"| {device} | {dtype} | {size} | {' | '.join(cells)} | {1e3 * alone.seconds:.3g} |"


def balance(devices: dict[str, tuple[dict[str, float], float]]) -> Iterator[str]:
    """Tokens in a forward pass from which on the products take longer than reading the weights."""
    yield "| device | dtype | tokens a pass |"
    yield "|---|---|---|"
    for device, (flops, rate) in devices.items():
        for dtype, peak in flops.items():
            yield f"| {device} | {dtype} | {peak * BYTES[dtype] / (2 * rate):,.0f} |"


def devices(measured: dict[str, Any] | None) -> dict[str, tuple[dict[str, float], float]]:
    """FLOP/s by dtype and bytes a second: of data sheets, and of the report."""
    found = {}
    if measured is not None:
        rates = measured["ceilings"]["flops_per_second"]
        best = {dtype: rate["best"] for dtype, rate in rates.items() if "best" in rate and dtype != "fp8"}
        found[f"this {measured['hardware']['device'].upper()}, measured"] = (
            best,
            measured["ceilings"]["copy_bytes_per_second"],
        )
    for name in GPUS:
        sheet = DATA_SHEETS[name]
        kinds = {dtype: peak for dtype, peak in sheet.flops.items() if dtype in ("bfloat16", "fp8")}
        found[f"{name.strip()}, data sheet"] = (kinds, sheet.bytes_per_second)
    return found


def gap(measured: dict[str, Any]) -> Iterator[str]:
    """The report's cases: our time over the floor, and over the time of the products alone."""
    yield "| inputs x tokens | dtype | tokens/s | time over floor | MFU of the ceiling |"
    yield "|---|---|---|---|---|"
    for case in measured["cases"]:
        for row in case["results"]:
            if row["name"].startswith("ours"):
                cells = f"{row['tokens_per_second']['median']:,.0f} | {row['over_floor']['median']:.2f}"
                shown = f"{case['inputs']} x {case['name']} | {row['dtype']}"
                yield f"| {shown} | {cells} | {row['mfu_of_ceiling']['median']:.0%} |"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Tables of work and floor times.")
    parser.add_argument("--measured", type=Path, help="a report of loadtest.bench_engine")
    file = parser.parse_args().measured
    measured = json.loads(file.read_text(encoding="utf-8")) if file else None
    known = devices(measured)
    for lines in (work(), floors(known), balance(known), *([gap(measured)] if measured else [])):
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
