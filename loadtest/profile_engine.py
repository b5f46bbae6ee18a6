"""Where the engine's time goes, by part of a layer.

python -m loadtest.profile_engine --dtypes float32 bfloat16 --out report.json

One forward pass over `--tokens` tokens of log-normal lengths at the shapes of `--size`, by torch's profiler: the parts are marked
from outside, around the engine's own calls, so that what is measured is what serves. On CPU a part's time is the wall time that its
calls take on the calling thread, the wait for other threads included; on CUDA that of its kernels. Marking costs some microseconds a
call. Tokenizing, packing and copying out are timed around the forward pass. The median of `--rounds`.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from loadtest.bench_report import describe_run, write_json
from loadtest.engine_cases import Cases
from loadtest.engine_ceilings import synchronize
from loadtest.engine_contestants import ours
from loadtest.engine_dtypes import chosen_device, chosen_dtypes
from loadtest.engine_table import shares
from serve_app.engine.demo import demo_checkpoint
from serve_app.engine.engine import Engine
from serve_app.engine.layer import FeedForward, LastLayer, Layer
from serve_app.engine.model_config import QWEN3_EMBEDDING
from serve_app.engine.random_weights import random_weights
from serve_app.engine.tokenizer import Tokenizer

PROJECTIONS = {"qkv": "products", "key_value": "products", "query": "products", "output": "products", "gate_up": "products",
               "down": "products"}  # fmt: skip
PARTS = {"norm": "norms", "turn_": "head norms and rotation", "gate": "SiLU and gate"}
ATTENTION = {"causal": "attention", "pooled": "attention"}


class Marked:
    """Stands in for an object: the calls that `names` has are recorded under the part that it says, calls of the object itself and its
    `add_to` under `itself`."""

    def __init__(self, inner: Any, names: dict[str, str], itself: str = "") -> None:
        self._inner, self._names, self._itself = inner, names, itself

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        part = self._itself if name == "add_to" else self._names.get(name)
        return recorded(found, part) if part else found

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return recorded(self._inner, self._itself)(*arguments, **named)


def recorded(call: Callable[..., Any], part: str) -> Callable[..., Any]:
    """The same call, seen by the profiler under this name."""

    @wraps(call, updated=())
    def run(*arguments: Any, **named: Any) -> Any:
        with record_function(f"part:{part}"):
            return call(*arguments, **named)

    return run


def mark(engine: Engine) -> None:
    """Have every part of the engine's model recorded."""
    model = engine.model
    model._elementwise = Marked(model._elementwise, PARTS)
    model.attention = Marked(model.attention, ATTENTION)
    model._layers.change(_marked)


def _marked(layer: Any) -> Any:
    names = {name: part for name, part in PROJECTIONS.items() if hasattr(layer, name)}
    changes: dict[str, Any] = {name: Marked(getattr(layer, name), {}, part) for name, part in names.items()}
    if isinstance(layer, (Layer, LastLayer)):
        changes["feed_forward"] = _marked(layer.feed_forward)
    assert changes or not isinstance(layer, FeedForward)
    return replace(layer, **changes)


def one_round(engine: Engine, tokenizer: Tokenizer, texts: list[str]) -> dict[str, float]:
    """Seconds of each part of one call with these texts."""
    cuda = engine.device.type == "cuda"
    begin = time.perf_counter()
    ids = tokenizer.encode_batch(texts)
    tokenized = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        synchronize(engine.device)
        started = time.perf_counter()
        engine.encode(ids)
        ended = time.perf_counter()
    parts = part_seconds(profiler.key_averages(), cuda=cuda)
    parts["the rest: packing, embedding rows, copies, Python"] = ended - started - sum(parts.values())
    parts["tokenizing"] = tokenized - begin
    return parts


def part_seconds(events: Iterable[Any], *, cuda: bool) -> dict[str, float]:
    """Seconds of each marked part, of the profiler's averages: on the calling thread, with `cuda` of the kernels launched there."""
    parts: dict[str, float] = defaultdict(float)
    for event in events:
        # On CUDA a mark comes a second time, as the span of time on the device from its first kernel to its last.
        if event.key.startswith("part:") and event.device_type == DeviceType.CPU:
            parts[event.key.removeprefix("part:")] += 1e-6 * (event.device_time_total if cuda else event.cpu_time_total)
    return dict(parts)


def profile_dtype(options: argparse.Namespace, dtype: str, tokenizer: Tokenizer) -> dict[str, float]:
    """Median seconds of each part."""
    config = QWEN3_EMBEDDING[options.size]
    config = replace(config, num_hidden_layers=options.layers or config.num_hidden_layers)
    weights = random_weights(config, chosen_device(options.device), torch.float32, options.seed)
    engine = ours(config, weights, dtype, options.batch_tokens)
    del weights
    mark(engine)
    cases = Cases(tokenizer, options.seed)
    case = cases.uniform(options.length, options.tokens) if options.length else cases.mix(options.tokens)
    one_round(engine, tokenizer, case.draw())
    rounds = [one_round(engine, tokenizer, case.draw()) for _ in range(options.rounds)]
    return {part: median(one[part] for one in rounds) for part in rounds[0]}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="The engine's time by part.")
    parser.add_argument("--size", choices=QWEN3_EMBEDDING, default="0.6B")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has, for a trial run")
    parser.add_argument("--dtypes", nargs="+", help="as in bench_engine")
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--length", type=int, help="all inputs of this length, instead of log-normal ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, help="the engine's token budget, default its own")
    parser.add_argument("--device", help="cpu or cuda, default CUDA if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads, default torch's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the whole report as JSON")
    options = parser.parse_args()
    out = options.__dict__.pop("out")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = chosen_device(options.device)
    tokenizer = Tokenizer.read(demo_checkpoint())
    profiles = {dtype: profile_dtype(options, dtype, tokenizer) for dtype in chosen_dtypes(options.dtypes, device)}
    print(shares(profiles))
    write_json({**describe_run(device), "options": vars(options), "seconds": profiles}, out)


if __name__ == "__main__":
    main()
