"""The cost report: the body of `GET /v1/usage`, and what `embedserve cost` prints."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.telemetry.claim import CLAIMED_OFFER, ClaimReport, check_claim
from serve_app.telemetry.cost import (
    UTILISATIONS,
    Consumption,
    break_even_tokens_per_second,
    device_usd,
    usd_per_million,
)
from serve_app.telemetry.ledger import KeyUsage
from serve_app.telemetry.prices import Pricing


@dataclass(frozen=True, slots=True)
class DeviceCost:
    """Time for which replicas held devices of one kind (`gpu`, or `cpu` for vCPUs), and what that costs."""

    device: str
    name: str
    seconds: float
    usd_per_hour: float
    usd: float


@dataclass(frozen=True, slots=True)
class HostedCost:
    """One hosted offer against this service.

    `usd_per_million_tokens` is the vendor's price for texts that are a million tokens here, its `token_factor` included; `usd` is its
    bill for the tokens served here, `times_self` that bill over ours. From `break_even_tokens_per_second` per device on, averaged
    over day and night, self-hosting costs less; `break_even_qps` is the same in requests of the mean length,
    `break_even_utilisation` the same as a share of full load: above 1 it never does.
    """

    offer: str
    usd_per_million_tokens: float
    token_factor: float
    usd: float
    times_self: float | None
    break_even_tokens_per_second: float | None
    break_even_qps: float | None
    break_even_utilisation: float | None
    date: str
    source: str


@dataclass(frozen=True, slots=True)
class Projection:
    """Dollars for a million tokens here, were the devices busy for this share of the time."""

    utilisation: float
    usd_per_million_tokens: float | None


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What was served since the counters began, what it cost here, and what it would have cost elsewhere.

    Counted are answered requests, inputs and tokens, `<|endoftext|>` and instructions included. `usd` is what the devices cost that
    replicas held. `utilisation` (0 to 1) is the share of that time in which they computed; `tokens_per_second` is one device's
    average over all of the time, `full_load_tokens_per_second` over the time in which it computed: at low load batches are small,
    so that more load would raise it, and what is projected from it errs against this service. None stands where nothing was
    counted yet. `keys` is what each API key has used, at the average cost of a million tokens; those rows may go back further.
    """

    object: str
    requests: float
    inputs: float
    prompt_tokens: float
    tokens_per_request: float | None
    devices: list[DeviceCost]
    busy_seconds: float
    replica_seconds: float
    utilisation: float | None
    tokens_per_second: float | None
    full_load_tokens_per_second: float | None
    usd: float
    usd_per_million_tokens: float | None
    hosted: list[HostedCost]
    projections: list[Projection]
    claim: ClaimReport | None
    keys: list[KeyUsage] = field(default_factory=list)


def usage_report(used: Consumption, pricing: Pricing) -> UsageReport:
    """The whole report for what was consumed, at these prices; hosted offers from the cheapest up."""
    devices = []
    for device, held in sorted(used.device_seconds.items()):
        paid = pricing.devices[device]
        devices.append(DeviceCost(device, paid.name, held, paid.usd_per_hour, device_usd(device, held, pricing)))
    usd = sum(device.usd for device in devices)
    seconds = sum(device.seconds for device in devices)
    hourly = usd / seconds * 3600 if seconds else None
    average = used.tokens / seconds if seconds else None
    full_load = average / used.utilisation if average and used.utilisation else None
    per_million = usd / used.tokens * 1e6 if used.tokens and usd else None
    at_full_load = usd_per_million(hourly, full_load) if hourly and full_load else None
    length = used.tokens_per_request
    hosted = []
    for offer, price in sorted(pricing.hosted.items(), key=lambda item: item[1].usd_per_million_of_ours):
        theirs = price.usd_per_million_of_ours
        even = break_even_tokens_per_second(hourly, theirs) if hourly else None
        hosted.append(
            HostedCost(
                offer=offer,
                usd_per_million_tokens=theirs,
                token_factor=price.token_factor,
                usd=used.tokens / 1e6 * theirs,
                times_self=theirs / per_million if per_million else None,
                break_even_tokens_per_second=even,
                break_even_qps=even / length if even and length else None,
                break_even_utilisation=at_full_load / theirs if at_full_load else None,
                date=price.date,
                source=price.source,
            )
        )
    claimed = pricing.hosted.get(CLAIMED_OFFER)
    return UsageReport(
        object="usage",
        requests=used.requests,
        inputs=used.inputs,
        prompt_tokens=used.tokens,
        tokens_per_request=length,
        devices=devices,
        busy_seconds=used.busy_seconds,
        replica_seconds=used.replica_seconds,
        utilisation=used.utilisation,
        tokens_per_second=average,
        full_load_tokens_per_second=full_load,
        usd=usd,
        usd_per_million_tokens=per_million,
        hosted=hosted,
        projections=[
            Projection(share, usd_per_million(hourly, full_load, share) if hourly and full_load else None)
            for share in UTILISATIONS
        ],
        claim=check_claim(length, hourly, full_load, claimed.usd_per_million_of_ours)
        if claimed and length and hourly and full_load
        else None,
    )


def what_if(
    tokens_per_second: float, utilisation: float = 1.0, tokens_per_request: float | None = None, gpus: float = 1.0
) -> Consumption:
    """An imagined hour of `gpus` GPUs, each of which computes for `utilisation` of the time, `tokens_per_second` then."""
    tokens = gpus * tokens_per_second * utilisation * 3600
    requests = tokens / tokens_per_request if tokens_per_request else 0.0
    return Consumption(requests, requests, tokens, {"gpu": gpus * 3600}, gpus * 3600, gpus * 3600 * utilisation)
