"""The cost report as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.telemetry.claim import ClaimReport
from serve_app.telemetry.usage import UsageReport

NOTE = """\
Counted is the time for which replicas hold devices: not idle nodes, gateways, egress, spares or discounts.
Prices are list prices, dated in the price book; token factors are assumptions until you measure them."""


def usage_table(report: UsageReport) -> str:
    """The whole report, at most 120 characters wide."""
    return "\n".join([*_here(report), "", *_hosted(report), "", *_claim(report.claim), NOTE])


def _here(report: UsageReport) -> Iterator[str]:
    yield (
        f"Served          {_count(report.prompt_tokens)} tokens in {_count(report.requests)} requests"
        f" ({_number(report.tokens_per_request)} tokens each)"
    )
    for device in report.devices:
        hours = device.seconds / 3600
        yield f"Held            {hours:,.2f} h of {device.name} at ${device.usd_per_hour:g}/h: ${device.usd:,.4f}"
    yield (
        f"Utilisation     {_percent(report.utilisation)} of that time busy; tokens/s and device: {_number(report.tokens_per_second)}"
        f" on average, {_number(report.full_load_tokens_per_second)} while busy"
    )
    yield f"Cost            {_dollars(report.usd_per_million_tokens)} per million tokens"
    projected = ", ".join(
        f"{_dollars(point.usd_per_million_tokens)} at {point.utilisation:.0%}" for point in report.projections
    )
    yield f"Projected       {projected} utilisation"


def _hosted(report: UsageReport) -> Iterator[str]:
    yield (
        f"{'Hosted':<32}{'$/1M':>9}{'factor':>8}{'same tokens':>14}{'bill/ours':>11}"
        f"{'even at: tokens/s':>19}{'requests/s':>12}{'busy':>8}"
    )
    for hosted in report.hosted:
        yield (
            f"{hosted.offer:<32}{hosted.usd_per_million_tokens:>9.4g}{hosted.token_factor:>8.3g}{_dollars(hosted.usd):>14}"
            f"{_number(hosted.times_self):>11}{_number(hosted.break_even_tokens_per_second):>19}"
            f"{_number(hosted.break_even_qps):>12}{_even(hosted.break_even_utilisation):>8}"
        )


def _claim(claim: ClaimReport | None) -> Iterator[str]:
    if claim is None:
        return
    length = _number(claim.tokens_per_request)
    yield f'"Above {claim.qps:g} QPS one twentieth of Cohere\'s bill": {claim.verdict} for requests of {length} tokens.'
    yield (
        f"At {claim.qps:g} requests/s this costs ${claim.self_usd_per_hour:,.3f}/h here ({claim.devices} "
        f"device{'s' * (claim.devices > 1)}) and ${claim.hosted_usd_per_hour:,.3f}/h at {claim.offer}: {claim.share:.3g} of that bill."
    )
    if claim.holds_from_qps is None:
        yield "It holds at no rate: a device at full load still costs more than a twentieth per token."
    else:
        yield f"It holds for a device with at least {_number(claim.holds_from_qps)} requests/s, day and night."
    yield ""


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.1f}{unit}"
    return f"{value:,.0f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _even(utilisation: float | None) -> str:
    if utilisation is None:
        return "-"
    return f"{utilisation:.1%}" if utilisation <= 1 else "never"


def _dollars(value: float | None) -> str:
    if value is None:
        return "-"
    return f"${value:,.2f}" if value >= 100 else f"${value:.4g}"
