"""What the service has cost, what hosted APIs would have asked for the same tokens, and where the two meet.

Pure arithmetic over sums of counters. The formula everyone uses, `dollars per million tokens = dollars per hour of a device / (tokens
per second * 3600 * utilisation) * 1e6`, is applied to what was measured: `utilisation` is the share of the replicas' lifetime in
which they computed, and tokens per second are those of that time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from serve_app.telemetry.prices import Pricing

Labels: TypeAlias = tuple[tuple[str, str], ...]
Totals: TypeAlias = Mapping[tuple[str, Labels], float]
"""Sums of counters over the whole cluster, by name and labels (pairs of label and value)."""

OPS = "ops"
"""The dialect of what operators and load balancers ask: no embeddings, nothing to bill."""

UTILISATIONS = (0.1, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Consumption:
    """What was served and what it took, over one stretch of time.

    `requests`, `inputs` and `tokens` are answered ones; `device_seconds` is the time for which replicas held a `gpu` or a `cpu` (a
    vCPU), `replica_seconds` that for which they lived, `busy_seconds` the part of it in which they computed.
    """

    requests: float
    inputs: float
    tokens: float
    device_seconds: Mapping[str, float]
    replica_seconds: float
    busy_seconds: float

    @property
    def utilisation(self) -> float | None:
        """Share of the replicas' lifetime in which they computed, 0 to 1."""
        return min(1.0, self.busy_seconds / self.replica_seconds) if self.replica_seconds else None

    @property
    def tokens_per_request(self) -> float | None:
        """Mean over all dialects."""
        return self.tokens / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class CostLine:
    """One child of the counter `cost_usd_total`: dollars by `side` (`self`, `hosted`) and `offer` (whose price it is)."""

    side: str
    offer: str
    usd: float


def consumption(totals: Totals) -> Consumption:
    """Read from the sums of the service's counters; those that nothing has counted yet are 0."""
    requests = inputs = tokens = replica_seconds = busy_seconds = 0.0
    device_seconds: dict[str, float] = {}
    for (name, pairs), value in totals.items():
        labels = dict(pairs)
        match name:
            case "embedserve_requests_total":
                if labels.get("status") == "200" and labels.get("dialect") != OPS:
                    requests += value
            case "embedserve_inputs_total":
                inputs += value
            case "embedserve_prompt_tokens_total":
                tokens += value
            case "embedserve_device_seconds_total":
                device = labels["device"]
                device_seconds[device] = device_seconds.get(device, 0.0) + value
            case "embedserve_replica_seconds_total":
                if labels.get("deployment") == "Embedder":
                    replica_seconds += value
            case "embedserve_device_busy_seconds_total":
                busy_seconds += value
    return Consumption(requests, inputs, tokens, device_seconds, replica_seconds, busy_seconds)


def cost_lines(totals: Totals, pricing: Pricing) -> list[CostLine]:
    """The counter `cost_usd_total` at these sums.

    It only grows with them, as long as prices stay; with other prices all of it is reckoned anew. What a node costs while no replica
    holds its devices is not in it, nor are gateways, egress and discounts.
    """
    used = consumption(totals)
    lines = [
        CostLine("self", pricing.devices[device].name, device_usd(device, seconds, pricing))
        for device, seconds in sorted(used.device_seconds.items())
    ]
    return lines + [
        CostLine("hosted", offer, used.tokens / 1e6 * price.usd_per_million_of_ours)
        for offer, price in pricing.hosted.items()
    ]


def device_usd(device: str, seconds: float, pricing: Pricing) -> float:
    """Dollars for so many seconds of a `gpu` or `cpu`."""
    return seconds / 3600 * pricing.devices[device].usd_per_hour


def usd_per_million(usd_per_hour: float, tokens_per_second: float, utilisation: float = 1.0) -> float:
    """Dollars for a million tokens of a device that computes for `utilisation` of the time, `tokens_per_second` then."""
    return usd_per_hour / (tokens_per_second * 3600 * utilisation) * 1e6


def break_even_tokens_per_second(usd_per_hour: float, hosted_usd_per_million: float) -> float:
    """The average load, day and night, from which on a device costs less than the hosted API."""
    return usd_per_hour / hosted_usd_per_million * 1e6 / 3600
