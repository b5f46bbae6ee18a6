r"""The tables of loadtest/ROOFLINE.md that follow from shapes, data sheets and measured ceilings.

python -m loadtest.engine_roofline --measured loadtest/results/engine.json --profile loadtest/results/engine_profile.json \\
    --into loadtest/ROOFLINE.md

`--measured` is a report of `loadtest.bench_engine`, whose ceilings stand for that machine; `--profile` one of
`loadtest.profile_engine`. With `--into` each table takes the place of the one between its marks in that page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.engine_datasheets import DATA_SHEETS
from loadtest.engine_floor import BYTES, Floor, floor_of
from loadtest.engine_table import shares
from loadtest.engine_table import table as engine_table
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
                shown = f"{case['inputs']} x {case['name']} | {row['name'].removeprefix('ours ')}"
                yield f"| {shown} | {cells} | {row['mfu_of_ceiling']['median']:.0%} |"


def put(page: str, name: str, table: str) -> str:
    """`page` with this table between the marks of that name. Raises `ValueError` if it has none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page has no single {begin.strip()} … {end}")
    return page[: page.index(begin) + len(begin)] + table + "\n" + page[page.index(end) :]


def read(file: Path | None) -> dict[str, Any] | None:
    """A JSON report, if there is one."""
    return json.loads(file.read_text(encoding="utf-8")) if file else None


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Tables of work and floor times.")
    parser.add_argument("--measured", type=Path, help="a report of loadtest.bench_engine")
    parser.add_argument("--profile", type=Path, help="a report of loadtest.profile_engine")
    parser.add_argument("--into", type=Path, help="a page whose tables to replace")
    options = parser.parse_args()
    measured, profiled = read(options.measured), read(options.profile)
    known = devices(measured)
    tables = {"work": "\n".join(work()), "floors": "\n".join(floors(known)), "balance": "\n".join(balance(known))}
    if measured:
        tables["measured"] = engine_table(measured)
        tables["gap"] = "\n".join(gap(measured))
    if profiled:
        tables["profile"] = "\n\n".join(
            [f"`{profiled['command']}`, revision `{profiled['git'][:9]}`.", shares(profiled["seconds"])]
        )
    for name, table in tables.items():
        print(f"{name}\n\n{table}\n")
    if options.into:
        page = options.into.read_text(encoding="utf-8")
        for name, table in tables.items():
            page = put(page, name, table)
        options.into.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
