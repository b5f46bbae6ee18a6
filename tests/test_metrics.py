"""What gateways and Embedders count, and that they count it before anybody has an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from serve_app.api.app import build_app
from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.embedder_telemetry import EmbedderTelemetry, held_devices
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.loaded import Loaded
from serve_app.cluster.ports import Backlog
from serve_app.config import Settings
from serve_app.engine.batcher import Batcher, EncodedBatch
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.model_config import QWEN3_EMBEDDING, ModelConfig
from serve_app.errors import NonFiniteError, OverloadedError, UnavailableError
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.exposition import render
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.lifetime import Lifetime
from serve_app.telemetry.peaks import peak_flops
from serve_app.types import Stage, TokenIds
from tests.counted import counted, total
from tests.dispatching import Gateway, tokens, virtually
from tests.promtool import promtool
from tests.test_app import BODY, MODEL, InProcess

__all__ = ["counted"]


def telemetry(dispatcher: Dispatcher | None = None) -> GatewayTelemetry:
    class Alone:
        async def keep(self) -> None: ...

    parts: Any = Alone(), dispatcher, "app"
    return GatewayTelemetry(GatewayMetrics([MODEL], ["openai"]), *parts)


class Client:
    """Posts to an app, and calls `look` at the moment at which the answer's first byte is sent."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.status = 0

    async def post(self, app: Any, body: dict[str, Any] = BODY, path: str = "/v1/embeddings") -> int:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(body).encode()}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.look()
                self.status = message["status"]

        await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
        return self.status


async def test_a_request_is_counted_before_its_answer_leaves(counted: MetricsDirectory) -> None:
    app = build_app(InProcess(), observe=telemetry().observe)
    seen: list[dict[str, float | None]] = []

    def look() -> None:
        both = {"dialect": "openai", "model": MODEL}
        seen.append(
            {
                "requests": total(counted, "requests_total", status="200", **both),
                "inputs": total(counted, "inputs_total", **both),
                "tokens": total(counted, "prompt_tokens_total", **both),
                "durations": total(counted, "request_duration_seconds_count", **both),
            }
            | {stage: total(counted, "stage_duration_seconds_count", stage=stage, model=MODEL) for stage in Stage}
        )

    client = Client(look)
    for inputs in (1, 3):
        assert await client.post(app, {**BODY, "input": ["a"] * inputs}) == 200
    once = {"requests": 1, "inputs": 1, "tokens": 3, "durations": 1} | dict.fromkeys(Stage, 1)
    assert seen == [once, {"requests": 2, "inputs": 4, "tokens": 12, "durations": 2} | dict.fromkeys(Stage, 2)]


async def test_failures_are_counted_by_status_and_bill_nothing(counted: MetricsDirectory) -> None:
    service = InProcess()
    app = build_app(service, observe=telemetry().observe)
    client = Client(lambda: None)

    def overloaded() -> None:
        raise OverloadedError("later", 1.0)

    def away() -> None:
        raise UnavailableError("shutting down")

    assert await client.post(app, {"input": "a", "model": "other"}) == 404
    assert await client.post(app, path="/v1/other") == 404
    for fail, status in ((overloaded, 429), (away, 503)):
        service.before = fail
        assert await client.post(app) == status
    assert total(counted, "requests_total", dialect="openai", model="", status="404") == 1
    assert total(counted, "requests_total", dialect="ops", model="", status="404") == 1
    for status in ("429", "503"):
        assert total(counted, "requests_total", dialect="openai", model=MODEL, status=status) == 1
    assert total(counted, "requests_total", dialect="openai", model=MODEL, status="200") == 0
    assert total(counted, "prompt_tokens_total", dialect="openai", model=MODEL) == 0
    assert total(counted, "request_duration_seconds_count", dialect="openai", model=MODEL) == 0
    assert total(counted, "rejections_total", reason="unavailable") == 1


@pytest.mark.parametrize(
    ("backlog", "reason"),
    [
        (Backlog(50, 50, 0.0, 1), "max_gateway_tokens"),
        (Backlog(0, 500, 0.0, 1), "max_cluster_tokens"),
        (Backlog(0, 400, 1.0, 1), "max_wait"),
    ],
)
def test_a_rejection_names_its_bound(counted: MetricsDirectory, backlog: Backlog, reason: str) -> None:
    metrics = GatewayMetrics([MODEL], ["openai"])
    admission = Admission(Bounds(10.0, 50, 500), chunk_tokens=1, on_refused=metrics.rejected)
    with pytest.raises(OverloadedError):
        admission.check(backlog)
    rejections = {k[1][0][1]: v for k, v in counted.read().totals().items() if k[0] == "embedserve_rejections_total"}
    assert {name for name, value in rejections.items() if value} == {reason}


def test_queues_and_what_is_sent_again(counted: MetricsDirectory) -> None:
    @virtually
    async def run() -> None:
        gateway = Gateway("one", slots=1)
        seen = telemetry(gateway.dispatcher)
        service: Any = type("Service", (), {"active": 2})
        seen.start(service)
        waiting = [gateway.embed([tokens(40, mark)]) for mark in range(3)]
        await asyncio.sleep(0.9)
        gateway.dispatcher.counters.retries = 4
        gateway.dispatcher.counters.duplicates = 3
        waiting.pop().cancel()
        await asyncio.sleep(0.15)
        assert total(counted, "queued_inputs", component="gateway") == 1
        assert total(counted, "queued_tokens", component="gateway") == 40
        assert total(counted, "queue_oldest_age_seconds", component="gateway") == pytest.approx(1.0)
        assert total(counted, "in_flight_requests") == 2
        assert total(counted, "retries_total", reason="death") == 4
        assert total(counted, "retries_total", reason="silence") == 3
        assert total(counted, "cancelled_inputs_total") == 1
        await asyncio.sleep(3)
        assert total(counted, "retries_total", reason="death") == 4, "counted once"
        assert total(counted, "queued_inputs", component="gateway") == 0
        await asyncio.gather(*waiting)
        await seen.stop()
        await gateway.dispatcher.close()

    run()


def batcher() -> Batcher:
    def run(token_ids: list[TokenIds]) -> EncodedBatch:
        bad = {row: NonFiniteError("NaN") for row, ids in enumerate(token_ids) if ids[0] == 13}
        return EncodedBatch(np.zeros((len(token_ids), 4), np.float32), bad)

    return Batcher(run, hidden_size=4, max_batch_tokens=100, max_batch_inputs=10)


async def test_a_batch_is_counted_before_its_answers_leave(counted: MetricsDirectory) -> None:
    running = batcher()
    settings = Settings.model_validate({"metrics.peak_flops": 1e9})
    EmbedderTelemetry(settings, 0, Loaded(running, "model", 0.5, memory=lambda: {"total": 7}), "me", 2.0)
    model = "embedserve/demo"
    assert total(counted, "computed_tokens_total", model=model) == 0
    seen = []
    future = running.submit([tokens(10, 1), tokens(20, 13)])
    future.add_done_callback(lambda _: seen.append(total(counted, "computed_tokens_total", model=model)))
    assert list((await future).errors) == [1]
    assert seen == [30]
    assert total(counted, "batch_tokens_sum") == 30
    assert total(counted, "batch_inputs_sum") == 2
    assert total(counted, "batch_fill_ratio_sum") == pytest.approx(0.3)
    assert total(counted, "nonfinite_outputs_total") == 1
    assert total(counted, "padding_tokens_total") == 0
    assert total(counted, "cached_tokens_total", model=model) == 0
    assert (total(counted, "model_flops_total") or 0) > 0
    assert total(counted, "replica_load_seconds", replica="me") == 1.5
    assert total(counted, "replica_warmup_seconds", replica="me") == 0.5
    await asyncio.sleep(1.1)
    assert total(counted, "replica_gpu_memory_bytes", replica="me", kind="total") == 7
    assert (total(counted, "replica_mfu_ratio", replica="me") or 0) > 0
    assert 0 <= (total(counted, "device_busy_seconds_total") or 0) < 1
    await running.close()


async def test_reused_tokens_are_counted_apart(counted: MetricsDirectory) -> None:
    def run(token_ids: list[TokenIds]) -> EncodedBatch:
        return EncodedBatch(np.zeros((len(token_ids), 4), np.float32), reused=[8, 15, 0])

    running = Batcher(
        run, hidden_size=4, max_batch_tokens=50, max_batch_inputs=10, cost=lambda ids, tenant: len(ids) // 2
    )
    EmbedderTelemetry(Settings(), 0, Loaded(running, "model"), "me", 2.0)
    await running.submit([tokens(30, 1), tokens(30, 2), tokens(20, 3)])
    assert running.computed_tokens == 80, "the rate is that at which the backlog shrinks"
    model = "embedserve/demo"
    assert total(counted, "computed_tokens_total", model=model) == 57
    assert total(counted, "cached_tokens_total", model=model) == 23
    assert total(counted, "batch_tokens_sum") == 57
    config = Checkpoint.read(resolve(model)).config
    squares = 30**2 - 8**2 + 30**2 - 15**2 + 20**2
    assert total(counted, "model_flops_total") == config.embedding_flops(3, 57, squares)
    await running.close()


async def test_equal_inputs_are_computed_and_counted_once(counted: MetricsDirectory) -> None:
    running = batcher()
    running.share_duplicates = True
    EmbedderTelemetry(Settings(), 0, Loaded(running, "model"), "me", 2.0)
    await running.submit([tokens(10, 1), tokens(20, 13), tokens(10, 1), tokens(20, 13), tokens(20, 13)])
    model = "embedserve/demo"
    assert total(counted, "computed_tokens_total", model=model) == 30
    assert total(counted, "cached_tokens_total", model=model) == 50
    assert total(counted, "batch_inputs_sum") == 2
    assert total(counted, "nonfinite_outputs_total") == 3
    await running.close()


async def test_what_is_not_known_is_absent(counted: MetricsDirectory) -> None:
    running = batcher()
    EmbedderTelemetry(Settings(), 0, Loaded(running, "model"), "me", 2.0)
    await asyncio.sleep(1.1)
    shown = {name for name, _ in counted.read().totals()}
    assert not shown & {
        "embedserve_replica_mfu_ratio",
        "embedserve_device_peak_flops",
        "embedserve_replica_gpu_memory_bytes",
    }
    assert "embedserve_replica_device_busy_ratio" in shown
    await running.close()


async def test_lifetimes(counted: MetricsDirectory) -> None:
    Lifetime("Embedder", "gpu", 0.5)
    await asyncio.sleep(2.3)
    lived = total(counted, "replica_seconds_total", deployment="Embedder")
    assert lived is not None
    assert lived >= 2
    assert total(counted, "device_seconds_total", device="gpu") == pytest.approx(lived / 2)


def test_the_devices_that_an_embedder_holds() -> None:
    assert held_devices(Settings(), 0.25) == ("gpu", 0.25)
    assert held_devices(Settings.model_validate({"num_cpus": 2}), 0) == ("cpu", 2.0)


async def test_promtool_finds_nothing_to_complain_about(counted: MetricsDirectory) -> None:
    app = build_app(InProcess(), observe=telemetry().observe)
    await Client(lambda: None).post(app)
    running = batcher()
    loaded = Loaded(running, "model", 0.5, "NVIDIA H200", "bfloat16", lambda: {"total": 7})
    EmbedderTelemetry(Settings(), 1, loaded, "me", 2.0)
    Lifetime("Embedder", "gpu", 1)
    await running.submit([tokens(10, 1)])
    await asyncio.sleep(1.1)
    body, _ = render(counted.read(), "")
    assert b"embedserve_replica_mfu_ratio{" in body
    promtool("check", "metrics", stdin=body.decode())
    await running.close()


# --- FLOPs


def flops_one_by_one(config: ModelConfig, lengths: list[int]) -> float:
    """Matrix multiplications counted one at a time: `2 m n k` each, causal attention by position."""
    hidden, query, kv, mlp = (
        config.hidden_size,
        config.query_size,
        config.key_value_size,
        config.intermediate_size,
    )
    flops = 0.0
    for length in lengths:
        for layer in range(config.num_hidden_layers):
            last = layer == config.num_hidden_layers - 1
            flops += 2 * length * hidden * 2 * kv
            for position in range(1, length + 1):
                if not last or position == length:
                    flops += 2 * (2 * hidden * query + 3 * hidden * mlp)
                    flops += 2 * 2 * query * position
    return flops


@pytest.mark.parametrize("lengths", [[1], [512], [3, 700, 64]])
def test_flops_are_those_of_the_matrix_products(lengths: list[int]) -> None:
    config = QWEN3_EMBEDDING["0.6B"]
    counted_flops = config.embedding_flops(len(lengths), sum(lengths), sum(n * n for n in lengths))
    # The masked half of n x n positions is n(n - 1)/2, for which the formula takes n²/2.
    assert counted_flops == pytest.approx(flops_one_by_one(config, lengths), rel=2e-3)


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L40", "bfloat16", None),
        ("NVIDIA H200", "float32", None),
        ("NVIDIA A10G", "bfloat16", None),
        ("", "float32", None),
    ],
)
def test_peaks(device: str, dtype: str, peak: float | None) -> None:
    assert peak_flops(device, dtype) == peak
