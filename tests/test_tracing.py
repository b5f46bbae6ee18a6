"""Spans of requests, as a collector receives them over OTLP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve_app.telemetry.tracing import record_stages, traced
from serve_app.types import Stage
from tests.running import RunningService

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
STAGES = {Stage.TOKENIZE: 0.001, Stage.QUEUE: 0.01, Stage.INFERENCE: 0.1, Stage.RENDER: 0.002}


def test_without_serves_tracing_nothing_is_recorded() -> None:
    assert not traced()
    record_stages(STAGES, model="demo")


def test_stages_follow_each_other_and_lie_within_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)
    assert traced()
    with provider.get_tracer("serve").start_as_current_span("request") as around:
        record_stages(STAGES, model="demo", inputs=3)
    *stages, request = sorted(spans.get_finished_spans(), key=lambda span: span.end_time or 0)
    assert [span.name for span in stages] == list(STAGES)
    assert all(span.parent == around.get_span_context() for span in stages)
    for before, after in pairwise(stages):
        assert before.end_time == after.start_time
    taken = [((span.end_time or 0) - (span.start_time or 0)) / 1e9 for span in stages]
    assert taken == pytest.approx(list(STAGES.values()), rel=1e-6)
    assert request.attributes == {"embedserve.model": "demo", "embedserve.inputs": 3}


class Collector(ThreadingHTTPServer):
    """Receives spans where OpenTelemetry's exporters send them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.came = threading.Condition()
        super().__init__(("127.0.0.1", 0), _Receiver)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def of_trace(self, trace: str) -> dict[str, Span]:
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace}


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportTraceServiceRequest.FromString(body)
        with self.server.came:
            self.server.spans += [
                span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
            ]
            self.server.came.notify_all()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


@pytest.mark.beside
def test_a_collector_gets_the_spans_of_a_callers_trace(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", "serve_app.telemetry.tracing:otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    with RunningService.start(tmp_path / "up.log", "--set", "num_cpus=0.5") as service:
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "mine"}
        body = {"model": "demo", "input": ["a secret text", "two"]}
        reply = httpx.post(f"{service.base_url}/embeddings", json=body, headers=headers, timeout=60)
        assert reply.status_code == 200
        with collector.came:
            assert collector.came.wait_for(lambda: {*Stage} < collector.of_trace(TRACE).keys(), 30), collector.spans
            found = collector.of_trace(TRACE)
    [request] = {span.name: span for name, span in found.items() if "Gateway" in name}.values()
    assert {found[stage].parent_span_id for stage in Stage} == {request.span_id}
    for stage in Stage:
        milliseconds = (found[stage].end_time_unix_nano - found[stage].start_time_unix_nano) / 1e6
        assert milliseconds == pytest.approx(float(reply.headers[f"x-{stage}-ms"]), abs=0.01)
    attributes = {each.key: each.value for each in request.attributes}
    assert attributes["embedserve.request_id"].string_value == "mine"
    assert attributes["embedserve.prompt_tokens"].int_value == reply.json()["usage"]["prompt_tokens"]
    texts = "".join(str(span) for span in found.values())
    assert "secret" not in texts
