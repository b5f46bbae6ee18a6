"""Kept vectors as clients and Prometheus see them: a request's whole walk through a gateway, over replicas of cardboard."""

from __future__ import annotations

import base64
from typing import Any, cast

import httpx
import numpy as np

from serve_app.api.app import build_app
from serve_app.cluster.admission import Admission, Bounds
from serve_app.cluster.answers import Answers
from serve_app.cluster.dispatcher import Dispatcher
from serve_app.cluster.gateway_telemetry import GatewayTelemetry
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.service import EmbeddingService, Timeouts
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.gateway_metrics import GatewayMetrics
from serve_app.types import ChunkReply, Envelope, Limits, ServedModel
from tests.counted import counted, total
from tests.dispatching import POLICY, Wire, reply_to
from tests.reference import VOCABULARY, tokenizer

__all__ = ["counted"]

MODEL = "m"
HIDDEN = 64


async def at_once(replica: str, envelope: Envelope) -> ChunkReply:
    """Vectors of length 1 that say how long the input is."""
    reply = reply_to(replica, envelope)
    angles = np.outer(envelope.lengths, np.arange(1, HIDDEN + 1)).astype(np.float32)
    reply.vectors = np.sin(angles) / np.linalg.norm(np.sin(angles), axis=1, keepdims=True)
    return reply


def gateway(wire: Wire) -> tuple[Any, Answers, GatewayTelemetry]:
    """The app, what it keeps and what counts it; 1 MB of vectors."""
    replicas = ReplicaSet(slots_per_class=2)
    replicas.set_replicas(["one"])
    dispatcher = Dispatcher(replicas, wire, gateway="here", hidden_size=HIDDEN, policy=POLICY)
    metrics = GatewayMetrics([MODEL], ["openai"])
    answers = Answers(
        dispatcher,
        model="fingerprint",
        hidden_size=HIDDEN,
        on_kept=lambda asked, found: metrics.looked_up(MODEL, asked, found),
        on_spared=lambda tokens: metrics.spared(MODEL, tokens),
    )
    answers.resize(2**20)
    service = EmbeddingService(
        ServedModel(MODEL, HIDDEN, 512),
        Limits(),
        JobTokenizer(tokenizer(), Limits(), VOCABULARY),
        answers,
        cast(ReplicaHealth, None),
        Admission(Bounds(10.0, 10_000, 100_000), 2048),
        Timeouts(300.0, 0.05, 3600.0),
    )
    parts: Any = None, dispatcher, "app"
    telemetry = GatewayTelemetry(metrics, *parts, kept_bytes=lambda: answers.kept_bytes)
    return build_app(service, observe=telemetry.observe), answers, telemetry


async def test_an_input_that_comes_again_costs_no_call_and_is_billed_all_the_same(counted: MetricsDirectory) -> None:
    wire = Wire(at_once)
    app, answers, telemetry = gateway(wire)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:

        async def post(*texts: str, **fields: object) -> tuple[np.ndarray, int, httpx.Headers]:
            reply = await http.post("/v1/embeddings", json={"model": MODEL, "input": list(texts), **fields})
            assert reply.status_code == 200, reply.text
            rows = [item["embedding"] for item in reply.json()["data"]]
            if isinstance(rows[0], str):
                rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
            return np.array(rows, np.float32), reply.json()["usage"]["prompt_tokens"], reply.headers

        first, billed, _ = await post("a text", "another one")
        assert len(wire.sent) == 1
        again, billed_again, headers = await post("another one", "a text")
        np.testing.assert_array_equal(again, first[::-1])
        assert billed_again == billed
        assert float(headers["x-inference-ms"]) == 0
        short, _, _ = await post("a text", dimensions=32, encoding_format="base64")
        np.testing.assert_allclose(short[0], first[0, :32] / np.linalg.norm(first[0, :32]), rtol=1e-6)
        assert len(wire.sent) == 1
        query, _, _ = await post("a text", instruction="Find it")
        assert len(wire.sent) == 2
        assert not np.array_equal(query[0], first[0])

    assert total(counted, "cache_lookups_total", model=MODEL) == 6
    assert total(counted, "cache_hits_total", model=MODEL) == 3
    sent = sum(int(envelope.lengths.sum()) for _, envelope in wire.sent)
    all_billed = total(counted, "prompt_tokens_total", dialect="openai", model=MODEL)
    assert (total(counted, "cached_tokens_total", model=MODEL) or 0) + sent == all_billed
    telemetry.look(active=0)
    assert total(counted, "cache_bytes") == answers.kept_bytes > 0
