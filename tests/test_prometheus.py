"""A real Prometheus over a real service under load: what it counted against what the load generator saw."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from loadtest.open_loop import OpenPlan, Outcome, Stream, drive_open
from loadtest.workload import Workload
from serve_app.cli import app
from serve_app.telemetry.families import SECONDS
from serve_app.telemetry.prices import read_price_book
from tests.expressions import expressions, panels, rules, selected
from tests.promtool import promtool
from tests.real_prometheus import RealPrometheus
from tests.running import RunningService

pytestmark = pytest.mark.cluster

STEP_SECONDS = 2.0
LOAD_SECONDS = 72.0
SETTLED_SECONDS = 68.0
"""When to look at rates over a minute: the load goes on for the whole of it."""

PROCESSING = b"openai-processing-ms"
"""What the service says that a request took: the generator's own clock also runs on the way there and back."""

ANSWERED = 'sum(embedserve_requests_total{dialect="openai", status="200"})'
TOKENS = "sum(embedserve_prompt_tokens_total)"

# What stays empty in this run, and why it may. Everything else must return data.
EMPTY = {
    "embedserve:mfu:ratio_avg": "the best that a CPU could do isn't known",
    "Model FLOPs utilisation (MFU) A": "the same",
    "Model FLOPs utilisation (MFU) B": "the same",
    "GPU memory A": "there is no GPU",
    "embedserve:cache_hits:ratio_rate5m": "no vectors are kept unless cache.max_mb says so",
    "Answers that were kept A": "the same",
    "Failed requests per second A": "no request fails; a status that never occurred has no series",
}


class Steady(Stream):
    """Evenly spaced, so that a second more or less at the edges of a minute makes no difference to speak of."""

    def moments(self, random: np.random.Generator) -> list[float]:
        return [float(moment) for moment in np.arange(self.start, self.stop, 1 / self.rate)]


@dataclass(frozen=True)
class Observed:
    """One run: what Prometheus had before it, and the load generator's outcomes; `began` in Unix seconds."""

    prometheus: RealPrometheus
    service: RunningService
    requests_before: float
    tokens_before: float
    began: float
    outcomes: list[Outcome]

    def tokens(self, outcome: Outcome) -> int:
        return int(orjson.loads(outcome.body)["usage"]["prompt_tokens"])


@pytest.fixture(scope="module")
def observed(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    service.wait_healthy()
    # One request of each sort first, so that every family has its series before the first scrape.
    httpx.post(f"{service.base_url}/embeddings", json={"model": "demo", "input": "warm"}, timeout=60).raise_for_status()
    target = f"127.0.0.1:{service.port}"
    with RealPrometheus.start(tmp_path_factory.mktemp("prometheus"), target, STEP_SECONDS) as prometheus:
        prometheus.wait_for_scrapes(2)
        before = prometheus.value(ANSWERED), prometheus.value(TOKENS)
        streams = (
            Steady("short", 25.0, 0.0, LOAD_SECONDS, Workload("short", 8, 60)),
            Steady("long", 1.5, 0.0, LOAD_SECONDS, Workload("long", 1000, 1100)),  # 6 %: the 99th percentile is theirs
        )
        clock = time.time() - time.perf_counter()
        run = drive_open(OpenPlan(service.url, "demo", streams, seed=1, keep_headers=frozenset({PROCESSING})))
        prometheus.wait_for_scrapes(2)
        yield Observed(prometheus, service, *before, clock + run.began, run.outcomes)


def test_counts_are_equal(observed: Observed) -> None:
    assert {outcome.status for outcome in observed.outcomes} == {200}
    requests = observed.prometheus.value(ANSWERED) - observed.requests_before
    tokens = observed.prometheus.value(TOKENS) - observed.tokens_before
    assert requests == len(observed.outcomes)
    assert tokens == sum(map(observed.tokens, observed.outcomes))


def test_rates_agree(observed: Observed) -> None:
    at = observed.began + SETTLED_SECONDS
    last_minute = [outcome for outcome in observed.outcomes if SETTLED_SECONDS - 60 < outcome.ended <= SETTLED_SECONDS]
    requests = observed.prometheus.value("embedserve:requests:rate1m", at)
    tokens = observed.prometheus.value("embedserve:prompt_tokens:rate1m", at)
    assert requests == pytest.approx(len(last_minute) / 60, rel=0.02)
    assert tokens == pytest.approx(sum(map(observed.tokens, last_minute)) / 60, rel=0.02)


def test_the_99th_percentile_lies_in_the_same_bucket(observed: Observed) -> None:
    seconds = np.array([outcome.seconds for outcome in observed.outcomes])
    inside = np.array([int(outcome.headers[PROCESSING.decode()]) / 1e3 for outcome in observed.outcomes])
    assert (inside <= seconds).all()
    since = f"[{int(time.time() - observed.began)}s]"
    buckets = observed.prometheus.query(f"sum by (le) (increase(embedserve_request_duration_seconds_bucket{since}))")
    counted = {float(sample.labels["le"]): sample.value for sample in buckets}
    bounds = sorted(counted)
    assert bounds == [*SECONDS, float("inf")]
    theirs = next(i for i, bound in enumerate(bounds) if counted[bound] >= 0.99 * counted[float("inf")])
    # The header counts whole milliseconds at another moment than the metric, and Prometheus extrapolates to the edges of its range: a
    # few requests more or less.
    low, high = np.quantile(inside, [0.988, 0.992], method="inverted_cdf")
    assert bisect_left(SECONDS, low - 0.002) <= theirs <= bisect_left(SECONDS, high + 0.002)


def test_every_rule_and_panel_returns_data(observed: Observed) -> None:
    at = observed.began + SETTLED_SECONDS
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    empty = {
        place
        for place, expression in expressions().items()
        if not observed.prometheus.query(expression, at) and place not in alerts
    }
    assert empty <= set(EMPTY), empty - set(EMPTY)
    assert set(EMPTY) <= set(expressions())
    # An alert is silent when all is well, so what it looks at must be there.
    for alert in alerts:
        for selector in selected(expressions()[alert]):
            assert observed.prometheus.query(selector, at), f"{alert}: {selector}"


def test_nothing_is_alarming(observed: Observed) -> None:
    firing = observed.prometheus.query('ALERTS{alertstate="firing"}')
    assert [sample.labels["alertname"] for sample in firing] == []


def test_panels_say_what_is_the_case(observed: Observed) -> None:
    at = observed.began + SETTLED_SECONDS

    def shown(title: str) -> list[float]:
        [panel] = [panel for panel in panels() if panel["title"] == title]
        return [sample.value for target in panel["targets"] for sample in observed.prometheus.query(target["expr"], at)]

    assert shown("Requests served, 3 days") == [1.0]
    assert shown("Alerts firing") == [0.0]
    assert shown("Padding") == [0.0]
    assert sum(shown("Mean time by stage")) <= max(shown("Latency of answers"))
    assert all(0 < busy <= 1 for busy in shown("Utilisation"))


def test_metrics_are_as_prometheus_wants_them(observed: Observed) -> None:
    text = httpx.get(f"{observed.service.url}/metrics", timeout=30).text
    assert promtool("check", "metrics", stdin=text) == ""


def test_the_bill(observed: Observed) -> None:
    own = observed.prometheus.value('sum(embedserve_cost_usd_total{side="self"})')
    usage = httpx.get(f"{observed.service.base_url}/usage", timeout=30).json()
    tokens = observed.prometheus.value(TOKENS)
    answered = observed.prometheus.value('sum(embedserve_requests_total{dialect!="ops", status="200"})')
    assert (usage["prompt_tokens"], usage["requests"]) == (tokens, answered)
    book = read_price_book()
    [device] = usage["devices"]
    assert (device["device"], device["name"]) == ("cpu", book.default_cpu)
    # Two Embedders that reserve half a CPU each.
    assert device["seconds"] == pytest.approx(usage["replica_seconds"] / 2)
    assert usage["usd"] == pytest.approx(device["seconds"] / 3600 * book.devices[book.default_cpu].usd_per_hour)
    hosted = observed.prometheus.value('sum(embedserve_cost_usd_total{side="hosted", offer="cohere:embed-v4.0"})')
    assert hosted == pytest.approx(tokens * 0.12 / 1e6)
    assert 0 < own <= usage["usd"]
    said = CliRunner().invoke(app, ["cost", "--url", observed.service.url])
    assert said.exit_code == 0
    assert f"h of {book.default_cpu} at $0.0425/h" in said.output
