"""OpenTelemetry spans for the stages of a request, as children of Serve's own span for it.

Off unless Serve traces, which it does when `RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH` names an exporter: `otlp` here, say.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from serve_app.types import Stage


def otlp() -> list[SpanProcessor]:
    """Sends spans over OTLP/HTTP to where OpenTelemetry's own variables say: `OTEL_EXPORTER_OTLP_ENDPOINT` and so on.

    Serve calls it in every process. Raises ImportError without `embedserve[tracing]`.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return [BatchSpanProcessor(OTLPSpanExporter())]


def traced() -> bool:
    """Whether Serve traces in this process."""
    return isinstance(trace.get_tracer_provider(), TracerProvider)


def record_stages(stage_seconds: Mapping[Stage, float], **attributes: str | int) -> None:
    """Spans for stages that followed each other and have just ended, and attributes for the span around them; nothing where that
    one isn't recorded."""
    around = trace.get_current_span()
    if not around.is_recording():
        return
    around.set_attributes({f"embedserve.{name}": value for name, value in attributes.items()})
    tracer = trace.get_tracer("embedserve")
    end = time.time_ns()
    for stage, seconds in reversed([*stage_seconds.items()]):
        start = end - int(seconds * 1e9)
        tracer.start_span(stage.value, start_time=start).end(end)
        end = start
