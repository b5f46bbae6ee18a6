"""What API keys cost: CPU time per request of the gate, the limits and the ledger, in the process that answers.

python -m loadtest.bench_keys --out report.json [--redis redis://127.0.0.1:6379]

The product's own app answers a request of one input at once, through the same calls in each case, in turn and round by round:

- `open`: no keys;
- `keyed`: one of `--keys` keys, with limits on requests, tokens and concurrency, charged and counted, with the headers on the reply;
- `wrong key`: refused with 401;
- `keyed, Redis`: with `--redis`, limits counted there; `--at-once` requests at a time, as under load, so that calls are shared.

CPU time of this process. `keys_cost` is `keyed` less `open` of the same round: what turning keys on costs a request.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.report import describe_service_run, print_head, spread, table, write_json
from serve_app.access.gate import Gate
from serve_app.access.key import ApiKey, hashed, new_secret
from serve_app.access.keys import Keys
from serve_app.access.limiter import Limiter, ShareLimiter
from serve_app.api.app import App, build_app
from serve_app.cluster.gateway import GC_THRESHOLDS
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.process import count_in
from serve_app.types import EmbedJob, EmbedResult, Limits, ServedModel, Stage

MODEL = "embedserve/demo"
TARGET_MICROSECONDS = 30.0
BODY = json.dumps({"model": MODEL, "input": "What is the capital of China?", "encoding_format": "base64"}).encode()
LIMIT = 10**9


class AtOnce:
    """A service that has every vector already; of the rest it does what concerns keys, as the real one does."""

    version = "0"
    models = (ServedModel(MODEL, 1024, 8192),)
    limits = Limits()

    def __init__(self) -> None:
        self._vectors = np.ones((1, 1024), np.float32)

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        if job.grant is not None:
            job.grant.permit(job)
            await job.grant.charge(36)
        return EmbedResult(self._vectors, 36, dict.fromkeys(Stage, 0.001))

    async def health(self) -> str | None:
        return None

    async def ready(self) -> str | None:
        return None


def request_call(app: App, secret: str | None, status: int) -> Callable[[], Coroutine[Any, Any, None]]:
    """One request to `app`."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    if secret is not None:
        headers.append((b"authorization", f"Bearer {secret}".encode()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY}

    async def send(message: Any) -> None:
        assert message.get("status", status) == status

    async def call() -> None:
        await app({"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers}, receive, send)

    return call


async def microseconds(call: Callable[[], Coroutine[Any, Any, None]], times: int, at_once: int) -> float:
    """CPU time of one call, `at_once` of them at the same time."""
    begin = time.process_time()
    if at_once == 1:
        for _ in range(times):
            await call()
    else:
        for _ in range(times // at_once):
            await asyncio.gather(*(call() for _ in range(at_once)))
    return (time.process_time() - begin) / times * 1e6


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """CPU microseconds of every case, by rounds."""
    gc.set_threshold(*GC_THRESHOLDS)
    count_in(MetricsDirectory(folder))
    nowhere: Any = None
    metrics, keys = GatewayMetrics([MODEL], ["openai"]), KeyMetrics()
    telemetry = GatewayTelemetry(metrics, nowhere, nowhere, "app", keys=keys)
    secrets = [new_secret() for _ in range(options.keys)]
    ring = Keys(ApiKey(f"key{n}", (hashed(secret),), LIMIT, LIMIT, 1000) for n, secret in enumerate(secrets))

    def app(limiter: Limiter | None) -> App:
        gate = Gate(ring, limiter, 2, keys.refused) if limiter is not None else None
        return build_app(AtOnce(), (), telemetry.observe, gate)

    shared, secret = ShareLimiter(2), secrets[len(secrets) // 2]
    cases = {
        "open": (request_call(app(None), None, 200), 1),
        "keyed": (request_call(app(shared), secret, 200), 1),
        "wrong key": (request_call(app(shared), new_secret(), 401), 1),
        "open, at once": (request_call(app(None), None, 200), options.at_once),
    }
    if options.redis:
        from serve_app.access.redis_limiter import RedisLimiter

        in_redis = app(RedisLimiter(options.redis, "bench", ShareLimiter(2)))
        cases["keyed, Redis"] = (request_call(in_redis, secret, 200), options.at_once)
        cases["keyed, Redis, one at a time"] = (request_call(in_redis, secret, 200), 1)
    measured: dict[str, list[float]] = {name: [] for name in cases}
    for warm in (True, *(False for _ in range(options.rounds))):
        for name, (call, at_once) in cases.items():
            taken = await microseconds(call, options.requests, at_once)
            if not warm:
                measured[name].append(taken)
    return measured


def less(one: list[float], other: list[float]) -> list[float]:
    """Round by round."""
    return [a - b for a, b in zip(one, other, strict=True)]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--requests", type=int, default=960, help="of each case in a round")
    parser.add_argument("--keys", type=int, default=1000, help="in the file")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--redis", help="URL of a Redis on this machine")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = describe_service_run()
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(Path(folder), options))
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR")
    costs = {"keys_cost": less(measured["keyed"], measured["open"])}
    if options.redis:
        costs["keys_cost_redis"] = less(measured["keyed, Redis"], measured["open, at once"])
        costs["keys_cost_redis_one_at_a_time"] = less(measured["keyed, Redis, one at a time"], measured["open"])
    report |= {
        "workload": {name: getattr(options, name) for name in ("rounds", "requests", "keys", "at_once")},
        "cpu_microseconds": {name: spread(values) for name, values in measured.items()},
        "extra_cpu_microseconds": {name: spread(values) for name, values in costs.items()},
        "target_microseconds": TARGET_MICROSECONDS,
    }
    print_head(report)
    rows = [*report["cpu_microseconds"].items(), *report["extra_cpu_microseconds"].items()]
    print(table(["CPU µs", "median", "lowest", "highest"], [[n, *(f"{v[k]:.1f}" for k in v)] for n, v in rows]))
    write_json(report, options.out)


if __name__ == "__main__":
    main()
