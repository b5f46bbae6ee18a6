"""The arithmetic of cost, against figures that were worked out by hand from list prices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.telemetry.claim import check_claim
from serve_app.telemetry.cost import (
    Consumption,
    Totals,
    break_even_tokens_per_second,
    consumption,
    cost_lines,
    usd_per_million,
)
from serve_app.telemetry.prices import DevicePrice, HostedPrice, Pricing, read_price_book
from serve_app.telemetry.usage import HostedCost, UsageReport, usage_report, what_if

H200, A10G = 4.59, 1.006
PRICING = Pricing(
    {"gpu": DevicePrice("h200", H200), "cpu": DevicePrice("core", 0.05)},
    {"small": HostedPrice(0.02), "cohere:embed-v4.0": HostedPrice(0.12), "other tokens": HostedPrice(0.02, 1.5)},
)
TOTALS = {
    ("embedserve_requests_total", (("dialect", "openai"), ("model", "m"), ("status", "200"))): 900.0,
    ("embedserve_requests_total", (("dialect", "tei"), ("model", "m"), ("status", "200"))): 100.0,
    ("embedserve_requests_total", (("dialect", "openai"), ("model", "m"), ("status", "429"))): 50.0,
    ("embedserve_requests_total", (("dialect", "ops"), ("model", ""), ("status", "200"))): 77.0,
    ("embedserve_inputs_total", (("dialect", "openai"), ("model", "m"))): 4_000.0,
    ("embedserve_prompt_tokens_total", (("dialect", "openai"), ("model", "m"))): 1_500_000.0,
    ("embedserve_prompt_tokens_total", (("dialect", "tei"), ("model", "m"))): 500_000.0,
    ("embedserve_device_seconds_total", (("device", "gpu"),)): 7_200.0,
    ("embedserve_replica_seconds_total", (("deployment", "Embedder"),)): 14_400.0,  # two to a GPU
    ("embedserve_replica_seconds_total", (("deployment", "Gateway"),)): 99_999.0,
    ("embedserve_device_busy_seconds_total", ()): 3_600.0,
    ("embedserve_retries_total", (("reason", "death"),)): 3.0,
}


@pytest.mark.parametrize(
    ("hourly", "speed", "utilisation", "dollars", "digits"),
    [
        (H200, 400_000, 1.0, 0.0032, 4),
        (H200, 400_000, 0.5, 0.0064, 4),
        (H200, 400_000, 0.1, 0.032, 3),
        (A10G, 25_000, 1.0, 0.011, 3),
        (A10G, 25_000, 0.5, 0.022, 3),
        (A10G, 25_000, 0.1, 0.11, 2),
    ],
)
def test_dollars_per_million(hourly: float, speed: float, utilisation: float, dollars: float, digits: int) -> None:
    assert round(usd_per_million(hourly, speed, utilisation), digits) == dollars


@pytest.mark.parametrize(
    ("hourly", "hosted", "thousand_tokens_per_second", "billion_a_month"),
    [
        (H200, 0.02, 63.8, 168),
        (H200, 0.07, 18.2, 48),
        (H200, 0.13, 9.8, 26),
        (A10G, 0.02, 14.0, 37),
        (A10G, 0.07, 4.0, 10.5),
        (A10G, 0.13, 2.1, 5.6),  # 2,150 tokens/s
    ],
)
def test_break_even(hourly: float, hosted: float, thousand_tokens_per_second: float, billion_a_month: float) -> None:
    tokens_per_second = break_even_tokens_per_second(hourly, hosted)
    assert round(tokens_per_second / 1e3, 1) == thousand_tokens_per_second
    assert tokens_per_second * 730.5 * 3600 / 1e9 == pytest.approx(billion_a_month, rel=0.02)


@given(st.floats(0.1, 20), st.floats(100, 1e6), st.floats(0.001, 1))
def test_at_break_even_both_cost_the_same(hourly: float, speed: float, hosted: float) -> None:
    even = break_even_tokens_per_second(hourly, hosted)
    assert usd_per_million(hourly, speed, even / speed) == pytest.approx(hosted)


def test_what_is_read_from_the_counters() -> None:
    used = consumption(TOTALS)
    assert used == Consumption(1000, 4000, 2_000_000, {"gpu": 7200}, 14_400, 3600)
    assert (used.utilisation, used.tokens_per_request) == (0.25, 2000)


def test_cost_lines() -> None:
    lines = {(line.side, line.offer): line.usd for line in cost_lines(TOTALS, PRICING)}
    assert lines == {
        ("self", "h200"): pytest.approx(9.18),
        ("hosted", "small"): pytest.approx(0.04),
        ("hosted", "cohere:embed-v4.0"): pytest.approx(0.24),
        ("hosted", "other tokens"): pytest.approx(0.06),
    }


def test_gpu_and_cpu_time_are_priced_apart() -> None:
    totals = {**TOTALS, ("embedserve_device_seconds_total", (("device", "cpu"),)): 36_000.0}
    lines = {line.offer: line.usd for line in cost_lines(totals, PRICING) if line.side == "self"}
    assert lines == {"h200": pytest.approx(9.18), "core": pytest.approx(0.5)}


def offer(report: UsageReport, name: str) -> HostedCost:
    [found] = [hosted for hosted in report.hosted if hosted.offer == name]
    return found


def test_report_of_a_running_service() -> None:
    report = usage_report(consumption(TOTALS), PRICING)
    assert report.usd == pytest.approx(9.18)
    assert report.usd_per_million_tokens == pytest.approx(4.59)
    assert report.tokens_per_second == pytest.approx(2_000_000 / 7200)  # of a GPU
    assert report.full_load_tokens_per_second == pytest.approx(4 * 2_000_000 / 7200)
    assert [round(p.usd_per_million_tokens or 0, 5) for p in report.projections] == [11.475, 2.295, 1.1475]
    small = offer(report, "small")
    assert small.times_self == pytest.approx(0.02 / 4.59)
    assert small.break_even_tokens_per_second == pytest.approx(63_750)
    assert small.break_even_qps == pytest.approx(31.875)
    assert small.break_even_utilisation == pytest.approx(1.1475 / 0.02)
    assert offer(report, "other tokens").usd_per_million_tokens == pytest.approx(0.03)
    assert [hosted.usd_per_million_tokens for hosted in report.hosted] == [0.02, 0.03, 0.12]


def test_what_if_agrees_with_the_formula() -> None:
    report = usage_report(what_if(400_000, 0.5, tokens_per_request=80, gpus=3), PRICING)
    assert report.usd_per_million_tokens == pytest.approx(usd_per_million(H200, 400_000, 0.5))
    assert report.full_load_tokens_per_second == pytest.approx(400_000)
    assert [p.usd_per_million_tokens for p in report.projections] == pytest.approx([0.031875, 0.006375, 0.0031875])
    assert offer(report, "small").break_even_qps == pytest.approx(63_750 / 80)
    assert offer(report, "small").break_even_utilisation == pytest.approx(0.159375)


@pytest.mark.parametrize("totals", [{}, {("embedserve_device_seconds_total", (("device", "gpu"),)): 60.0}])
def test_a_service_that_has_served_nothing(totals: Totals) -> None:
    report = usage_report(consumption(totals), PRICING)
    assert (report.requests, report.usd_per_million_tokens, report.claim) == (0, None, None)
    assert report.usd == pytest.approx(60 / 3600 * H200 if totals else 0)
    assert [p.usd_per_million_tokens for p in report.projections] == [None] * 3
    assert [hosted.usd for hosted in report.hosted] == [0, 0, 0]


@given(st.floats(1, 1e12), st.floats(1, 1e9), st.floats(0.001, 1))
def test_counters_only_grow(tokens: float, seconds: float, more: float) -> None:
    def at(scale: float) -> dict[tuple[str, str], float]:
        totals: Totals = {
            ("embedserve_prompt_tokens_total", ()): tokens * scale,
            ("embedserve_device_seconds_total", (("device", "gpu"),)): seconds * scale,
        }
        return {(line.side, line.offer): line.usd for line in cost_lines(totals, PRICING)}

    before, after = at(1), at(1 + more)
    assert all(after[key] >= before[key] for key in before)


# --- "above 50 QPS one twentieth of Cohere's bill"


@pytest.mark.parametrize(
    ("tokens", "hourly", "speed", "share", "from_qps"),
    [
        (80, A10G, 25_000, 0.582, None),  # a full A10G costs 1/10.7 of Cohere's price a token: never 1/20
        (512, A10G, 25_000, 0.182, None),  # takes two of them
        (80, H200, 400_000, 2.656, 2656.25),  # dearer than Cohere at 50 QPS
        (512, H200, 400_000, 0.415, 415.04),
        (4096, H200, 400_000, 0.0519, 51.88),
    ],
)
def test_the_claim_is_refuted(tokens: float, hourly: float, speed: float, share: float, from_qps: float | None) -> None:
    report = check_claim(tokens, hourly, speed, hosted_usd_per_million=0.12)
    assert report.verdict == "refuted"
    assert report.share == pytest.approx(share, rel=0.002)
    assert report.holds_from_qps == (None if from_qps is None else pytest.approx(from_qps, rel=1e-4))


def test_the_claim_holds_for_long_documents_on_a_fast_gpu() -> None:
    report = check_claim(8192, H200, 450_000, hosted_usd_per_million=0.12)
    assert (report.verdict, report.devices) == ("confirmed", 1)
    assert report.hosted_usd_per_hour == pytest.approx(50 * 8192 * 3600 / 1e6 * 0.12)
    assert report.share < 1 / 20


def test_the_claim_in_the_report_uses_what_was_measured() -> None:
    report = usage_report(what_if(400_000, 0.5, tokens_per_request=80), read_price_book().pricing())
    assert report.claim == check_claim(80, H200, 400_000, 0.12)
