"""What counting costs: CPU time per request of all instrumentation, in the processes that answer requests.

python -m loadtest.bench_metrics --out report.json

The product's own calls, on files in a folder like those of a running service, without a cluster around them:

- `request`: what a gateway adds to a request of one input, its outcome and 10 series of counters and histograms;
- `batch`: what an Embedder adds to a batch. One input a batch is the worst case: under load, a batch serves many requests;
- `look`, `lifetime`: what a gateway, and an Embedder, do once a second, whatever the load;
- `merge and read`: what the exporter of a node does every 5 s and at each scrape, in a process of its own.

CPU time of this process, by rounds, all of them in every round. `per_request` adds `request`, `batch` at one input, and the looks of
one gateway and one Embedder shared by `--requests-per-second`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.report import describe_service_run, print_head, spread, table, write_json
from serve_app.api.app import outcome_of
from serve_app.api.http import Reply, Request
from serve_app.api.routing import Route
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.embedder_telemetry import EmbedderTelemetry
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.replicas import ReplicaSet
from serve_app.config import Settings
from serve_app.engine.batch import Batch
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.lane import QueuedInput
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.lifetime import Lifetime
from serve_app.telemetry.process import count_in
from serve_app.types import Stage

MODEL = "embedserve/demo"
TARGET_MICROSECONDS = 30.0


def request_call(gateway: GatewayTelemetry) -> Callable[[], None]:
    """One answered request with one input."""

    async def handler(request: Request) -> Reply: ...

    scope: dict[str, Any] = {"method": "POST", "path": "/v1/embeddings", "headers": []}
    request = Request(scope, handler)  # type: ignore[arg-type]
    request.model = MODEL
    route = Route("POST", "/v1/embeddings", handler, "", dialect="openai")
    stages = dict(zip(Stage, (0.0004, 0.003, 0.02, 0.0001), strict=True))
    reply = Reply(200, b"", stage_seconds=stages, inputs=1, prompt_tokens=36)
    return lambda: gateway.observe(outcome_of(request, route, reply))


def batch_call(embedder: EmbedderTelemetry, inputs: int) -> Callable[[], None]:
    """One computed batch of inputs of 36 tokens."""
    lengths: Any = [QueuedInput(36, 0, 0.0, 0.0) for _ in range(inputs)]
    batch = Batch(lengths, 36 * inputs)
    return lambda: embedder.computed(batch, {})


def microseconds(call: Callable[[], object], times: int) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begin) / times * 1e6


async def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """CPU microseconds of every part, by rounds."""
    directory = MetricsDirectory(folder)
    count_in(directory)
    dispatcher = Dispatcher(ReplicaSet(), _Nowhere(), gateway="here", hidden_size=4)  # type: ignore[arg-type]
    gateway = GatewayTelemetry(GatewayMetrics([MODEL], ["openai"]), _Nowhere(), dispatcher, "app")  # type: ignore[arg-type]
    batcher = Batcher(_compute, hidden_size=4, max_batch_tokens=2048, max_batch_inputs=512)
    embedder = EmbedderTelemetry(
        Settings.model_validate({"metrics.peak_flops": 1e12}), 0, Loaded(batcher, "model"), "me", 1.0
    )
    lifetime = Lifetime("Embedder", "cpu", 1.0)
    parts: dict[str, tuple[Callable[[], object], int]] = {
        "request": (request_call(gateway), 1000),
        "batch of 1": (batch_call(embedder, 1), 1000),
        "batch of 64": (batch_call(embedder, 64), 300),
        "look of a gateway": (lambda: gateway.look(3), 300),
        "look of an Embedder": (embedder.look, 300),
        "lifetime": (lambda: lifetime.passed(1.0), 300),
        "merge and read": (lambda: (directory.merge_dead(), directory.read().encode()), 5),
    }
    for call, times in parts.values():
        microseconds(call, times)
    measured = {name: [] for name in parts}  # type: dict[str, list[float]]
    for _ in range(rounds):
        for name, (call, times) in parts.items():
            measured[name].append(microseconds(call, times))
    await batcher.close()
    return measured


class _Nowhere:
    """Stands for what isn't asked here."""


def _compute(token_ids: list[Any]) -> EncodedBatch:
    return EncodedBatch(np.zeros((len(token_ids), 4), np.float32))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--requests-per-second", type=float, default=100.0, help="of one gateway and one Embedder")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = describe_service_run()
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(Path(folder), options.rounds))
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR")
    every_second = ("look of a gateway", "look of an Embedder", "lifetime", "lifetime")
    per_request = [
        now["request"] + now["batch of 1"] + sum(now[name] for name in every_second) / options.requests_per_second
        for now in (dict(zip(measured, row, strict=True)) for row in zip(*measured.values(), strict=True))
    ]
    report |= {
        "workload": {"rounds": options.rounds, "requests_per_second": options.requests_per_second},
        "cpu_microseconds": {name: spread(values) for name, values in measured.items()},
        "per_request_cpu_microseconds": spread(per_request),
        "target_microseconds": TARGET_MICROSECONDS,
    }
    print_head(report)
    rows = [*report["cpu_microseconds"].items(), ("per request", report["per_request_cpu_microseconds"])]
    print(table(["CPU µs", "median", "lowest", "highest"], [[n, *(f"{v[k]:.1f}" for k in v)] for n, v in rows]))
    write_json(report, options.out)


if __name__ == "__main__":
    main()
