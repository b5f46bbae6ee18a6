"""A claim that users have read, recomputed: "above 50 QPS one twentieth of Cohere's bill"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CLAIMED_QPS = 50.0
CLAIMED_SHARE = 1 / 20
CLAIMED_OFFER = "cohere:embed-v4.0"


@dataclass(frozen=True, slots=True)
class ClaimReport:
    """Both bills at the claimed rate, in dollars per hour, and from which rate on the claim would hold.

    The claim names neither the device nor the length of a request, so both are part of the report. `devices` is how many it takes at
    least, never idle for want of half a device; `share` is our bill over theirs; `holds_from_qps` is None where it never holds, since
    a device at full load still costs more than that share per token.
    """

    offer: str
    qps: float
    claimed_share: float
    tokens_per_request: float
    devices: int
    self_usd_per_hour: float
    hosted_usd_per_hour: float
    share: float
    holds_from_qps: float | None
    verdict: Literal["confirmed", "refuted"]


def check_claim(
    tokens_per_request: float,
    device_usd_per_hour: float,
    device_tokens_per_second: float,
    hosted_usd_per_million: float,
    qps: float = CLAIMED_QPS,
    share: float = CLAIMED_SHARE,
    offer: str = CLAIMED_OFFER,
) -> ClaimReport:
    """The claim at these assumptions: `device_tokens_per_second` is what one device does at full load."""
    tokens_per_second = qps * tokens_per_request
    devices = max(1, math.ceil(tokens_per_second / device_tokens_per_second - 1e-9))
    own = devices * device_usd_per_hour
    hosted = tokens_per_second * 3600 / 1e6 * hosted_usd_per_million
    # A single device: with n of them both the bill and the load are n times as large.
    needed = device_usd_per_hour / (hosted_usd_per_million * share) * 1e6 / 3600
    return ClaimReport(
        offer,
        qps,
        share,
        tokens_per_request,
        devices,
        own,
        hosted,
        own / hosted,
        needed / tokens_per_request if needed <= device_tokens_per_second else None,
        "confirmed" if own <= hosted * share else "refuted",
    )
