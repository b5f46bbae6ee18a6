"""Adding, keeping and writing down samples."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serve_app.telemetry.exposition import render
from serve_app.telemetry.snapshot import Family, Snapshot, add_all

REQUESTS = Family("embedserve_requests", "counter", "Requests.")
LEVEL = Family("embedserve_level", "gauge", "A level.", "livesum")
OLDEST = Family("embedserve_age_seconds", "gauge", "An age.", "livemax")
SECONDS = Family("embedserve_wait_seconds", "histogram", "A wait.")


def node(requests: float, age: float) -> Snapshot:
    snapshot = Snapshot()
    snapshot.put(REQUESTS, ("embedserve_requests_total", (("model", 'a"b'),)), requests)
    snapshot.put(LEVEL, ("embedserve_level", ()), 1.5)
    snapshot.put(OLDEST, ("embedserve_age_seconds", ()), age)
    for le, value in (("0.1", 1.0), ("+Inf", 2.0), ("0.02", 0.0)):
        snapshot.put(SECONDS, ("embedserve_wait_seconds_bucket", (("le", le),)), value)
    snapshot.put(SECONDS, ("embedserve_wait_seconds_sum", ()), 0.7)
    return snapshot


TOTALS = {
    ("embedserve_requests_total", (("model", 'a"b'),)): 12.0,
    ("embedserve_level", ()): 3.0,
    ("embedserve_age_seconds", ()): 9.0,
    ("embedserve_wait_seconds_count", ()): 6.0,
    ("embedserve_wait_seconds_sum", ()): pytest.approx(1.4),
}


def test_nodes_add_up_by_kind() -> None:
    assert add_all([node(5, 9.0), node(7, 2.0)]).totals() == TOTALS


def test_it_survives_being_written_down() -> None:
    snapshot = node(0.1 + 0.2, 1e-300)
    assert Snapshot.decode(snapshot.encode()) == snapshot


def test_gauges_do_not_last() -> None:
    assert node(5, 9.0).lasting().families.keys() == {"embedserve_requests", "embedserve_wait_seconds"}


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
            parse_openmetrics,
        ),
    ],
)
def test_both_formats(accept: str, content_type: str, parse: object) -> None:
    body, given = render(add_all([node(5, 9.0), node(7, 2.0)]), accept)
    assert given.startswith(content_type)
    families = {family.name: family for family in parse(body.decode())}  # type: ignore[operator]
    assert {
        sample.labels["le"]: sample.value for sample in families["embedserve_wait_seconds"].samples if sample.labels
    } == {
        "0.02": 0.0,
        "0.1": 2.0,
        "+Inf": 6.0,
    }
    [requests] = families["embedserve_requests"].samples
    assert (requests.name, requests.labels, requests.value) == ("embedserve_requests_total", {"model": 'a"b'}, 12.0)
    assert families["embedserve_requests"].type == "counter"
