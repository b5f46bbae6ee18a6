"""No text, no key and no Authorization header in a log line or a metric, whatever was sent and whatever happened to it."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from loadtest.fuzz_inputs import MARK, BadInput, Generator
from serve_app.access.gate import Gate
from serve_app.access.keys import Keys
from serve_app.access.limiter import ShareLimiter
from serve_app.api.app import build_app
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.exposition import render
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.types import DEMO_MODEL_ID, EmbedJob, EmbedResult
from tests.counted import counted, total
from tests.guarded import key
from tests.test_fuzz import Ones, answer, document

__all__ = ["counted"]

WRONG = b"wrong-private-key"


class Failing(Ones):
    """Every third request fails, with the text in the exception."""

    asked = 0

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        self.asked += 1
        if self.asked % 3 == 0:
            raise RuntimeError(f"{job.texts}")
        return await super().embed(job, request_id)


async def test_neither_logs_nor_metrics_know_texts_or_keys(
    counted: MetricsDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    nowhere: Any = None
    keys = KeyMetrics()
    metrics = GatewayMetrics([DEMO_MODEL_ID], ["openai", "cohere", "tei"])
    telemetry = GatewayTelemetry(metrics, nowhere, nowhere, "app", keys=keys)
    gate = Gate(Keys([key("a", requests_per_minute=700)]), ShareLimiter(1), 1, keys.refused)
    app = build_app(Failing(), observe=telemetry.observe, guard=gate)
    good = ("authorization", b"Bearer a-secret")
    statuses = set()
    for number, sent in enumerate(islice(Generator(await document(app, good), DEMO_MODEL_ID, seed=3), 800)):
        status, _ = await answer(app, sent.with_key(WRONG if number % 20 == 0 else b"a-secret"))
        statuses.add(status)
    for path in (f"/{MARK}", f"/v1/models/{MARK}"):
        await answer(app, BadInput(path, (good,), b"", True), method="GET")
    assert {200, 400, 401, 422, 424, 429, 500} <= statuses
    assert total(counted, "key_refusals_total", key="a", limit="requests")

    shown = render(counted.read(), "")[0]
    kept = b"".join(file.read_bytes() for file in (tmp_path / "metrics").rglob("*") if file.is_file())
    assert b'key="a"' in shown
    assert "failed: RuntimeError" in caplog.text
    for private in (MARK.encode(), b"a-secret", WRONG, b"Bearer"):
        assert private not in shown
        assert private not in kept
        assert private.decode() not in caplog.text
