"""The engine against transformers, sentence-transformers and the device's own ceilings, in one run.

python -m loadtest.bench_engine --out report.json

Needs torch and transformers; sentence-transformers runs where it is installed. First the engine's vectors are compared with
transformers', in float32, on texts drawn at each run. Then the ceilings are measured: matrix products at the model's shapes and
as large squares in each dtype, and copies. Then every case runs in rounds, each contestant in turn, each round in another order
with other texts:

- `ours DTYPE`: tokenizing and `Engine.encode`, for each of `--dtypes`; with `--ids` also without tokenizing;
- `transformers`, `sentence-transformers`: their model with the same weights in the first of `--dtypes` that they know, at the best of
  `--batch-sizes` for the case. Attention is flash attention where the package is installed, else torch's own;
- `products`: the products of the linear layers alone, all tokens in all layers, at the engine's batches, in the first of `--dtypes`.

A case has as many inputs as our engine embeds in about `--seconds`; lengths that would take far longer are left out and named. With
`--minutes`, no case is begun that would end later, if it takes as long as the longest before it. Who fails is named, and the others
go on; `--out` is written after each case. A GPU for few minutes: `--seconds 1 --minutes 7`.

`--case queries` is another comparison: see `loadtest/bench_queries.py`.
"""

from __future__ import annotations

import argparse
import secrets
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadtest.bench_queries import measure_queries
from loadtest.bench_report import describe_run, write_json, write_report
from loadtest.engine_cases import LENGTHS, Cases, one_token_words
from loadtest.engine_ceilings import copy_rate, product_rates
from loadtest.engine_contestants import Ours, Transformers, lowest_cosine, ours, qwen3
from loadtest.engine_datasheets import data_sheet
from loadtest.engine_dtypes import chosen_device, chosen_dtypes, native_dtypes
from loadtest.engine_rounds import Rounds, seconds
from loadtest.engine_table import table
from serve_app.engine.demo import demo_checkpoint
from serve_app.engine.model_config import QWEN3_EMBEDDING, ModelConfig
from serve_app.engine.random_weights import random_weights
from serve_app.engine.tokenizer import Tokenizer
from serve_app.engine.weights import Weights

PARITY = 1e-5
PARITY_LENGTHS = (1, 2, 5, 17, 17, 64, 130)


def parity(config: ModelConfig, weights: Weights, tokenizer: Tokenizer) -> dict[str, float]:
    """The largest difference between the engine's vectors and transformers' in float32, on texts that no run has seen before.

    Raises `SystemExit` where they differ by more than rounding does.
    """
    seed = secrets.randbits(32)
    random, words = np.random.default_rng(seed), one_token_words(tokenizer)
    texts = ["".join(random.choice(words, length - 1)) for length in PARITY_LENGTHS]
    found = Ours(ours(config, weights, "float32", None), tokenizer)(texts, 1)
    expected = Transformers(qwen3(config, weights, "sdpa"), tokenizer)(texts, 1)
    difference = float(np.abs(found - expected).max())
    if not difference <= PARITY:
        raise SystemExit(f"float32 vectors differ from transformers' by {difference:.1e} (texts of seed {seed})")
    return {"seed": seed, "largest_difference": difference, "lowest_cosine": lowest_cosine(found, expected)}


def measure(options: argparse.Namespace, out: Path | None = None) -> dict[str, Any]:
    """Check parity, measure the ceilings, and run the cases; the report so far is written to `out` after each."""
    begun = time.monotonic()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = chosen_device(options.device)
    dtypes = chosen_dtypes(options.dtypes, device)
    ceiling_dtypes = native_dtypes(device) if options.ceilings is None else options.ceilings
    config = QWEN3_EMBEDDING[options.size]
    config = replace(config, num_hidden_layers=options.layers or config.num_hidden_layers)
    folder = demo_checkpoint()
    tokenizer = Tokenizer.read(folder)
    weights = random_weights(config, device, torch.float32, options.seed)
    if options.case == "queries":
        engine = ours(config, weights, dtypes[0], options.batch_tokens)
        return measure_queries(options, engine, tokenizer, one_token_words(tokenizer), seconds)
    agreed = parity(config, weights, tokenizer)
    print(f"parity    float32 to transformers: largest difference {agreed['largest_difference']:.1e}", flush=True)
    ceilings = measured_ceilings(config, device, [*dtypes, *ceiling_dtypes], options)
    rates = ceilings["flops_per_second"]
    unmeasured = [dtype for dtype in dtypes if "best" not in rates[dtype]]
    dtypes = [dtype for dtype in dtypes if dtype not in unmeasured]
    if not dtypes:
        raise SystemExit(f"nothing to hold the engine against: {rates}")
    slowest = min(rates[dtype]["best"] for dtype in dtypes)
    cases, left_out = Cases(tokenizer, options.seed).choose(
        options.lengths,
        lambda length: 0.7 * slowest / config.flops_per_token(length),
        options.seconds,
        config.max_position_embeddings,
    )
    rounds = Rounds(config, weights, tokenizer, folder, dtypes, ceilings, options)
    failures = rounds.failures
    failures.of |= {f"ours {dtype}": "no product of this dtype runs here" for dtype in unmeasured}
    report = {
        **describe_run(device),
        "options": vars(options),
        "dtypes": dtypes,
        "shapes": asdict(config),
        "parity": agreed,
        "ceilings": ceilings,
        "data_sheet": asdict(sheet) if (sheet := data_sheet(rounds.device_name)) else None,
        "left_out": left_out,
        "latency_512": rounds.latency(512),
        "cases": [],
        "memory": {},
        "failed": failures.of,
    }
    longest = 0.0
    for case in cases:
        started = time.monotonic()
        if options.minutes is not None and started - begun + longest > 60 * options.minutes:
            left_out[case.name] = "there was no time for it"
            continue
        with failures.noted(case.name):
            report["cases"].append(rounds.run(case))
        longest = max(longest, time.monotonic() - started)
        report["memory"] = rounds.memory()
        write_json(report, out)
    return report


def measured_ceilings(
    config: ModelConfig, device: torch.device, dtypes: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Copies, and products in each of `dtypes`, or why there are none."""
    budget = options.seconds / 40
    rates: dict[str, dict[str, Any]] = {}
    for dtype in dict.fromkeys(dtypes):
        try:
            rates[dtype] = product_rates(config, device, dtype, tuple(options.rows), budget)
        except RuntimeError as error:
            rates[dtype] = {"unavailable": str(error)}
    return {"copy_bytes_per_second": copy_rate(device, budget), "flops_per_second": rates}


def arguments() -> argparse.ArgumentParser:
    """What the command line takes."""
    parser = argparse.ArgumentParser(
        description="Engine, transformers, sentence-transformers and ceilings, interleaved."
    )
    parser.add_argument("--case", choices=["all", "queries"], default="all")
    parser.add_argument("--size", choices=QWEN3_EMBEDDING, default="0.6B")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for a trial run")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        help="of our engine: float32, bfloat16, int8, fp8, or `all` that the device has instructions for; default its first",
    )
    parser.add_argument(
        "--ceilings", nargs="*", help="dtypes of the measured products beside those; default all that the device has"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 512, 2048], help="rows of the measured products")
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS))
    parser.add_argument("--seconds", type=float, default=8.0, help="of our slowest engine, for a round of a case")
    parser.add_argument(
        "--minutes", type=float, help="in which to be done, as far as can be foreseen; default no limit"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ids", action="store_true", help="time our engine also without tokenizing")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", help="of the others, default 1 4 16, on CUDA 8 32 128 512"
    )
    parser.add_argument("--batch-tokens", type=int, help="the engine's token budget, default its own")
    parser.add_argument("--device", help="cpu or cuda, default CUDA if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads, default torch's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries", type=int, default=45, help="queries a round, with --case queries")
    parser.add_argument("--instructions", type=int, default=1, help="that they are spread over")
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    return parser


def main() -> None:
    """Run from the command line."""
    options = arguments().parse_args()
    out = options.__dict__.pop("out")
    report = measure(options, out)
    if options.case == "queries":
        write_report(report, out)
        return
    print(table(report))
    write_json(report, out)


if __name__ == "__main__":
    main()
