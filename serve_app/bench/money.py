"""What a million tokens cost at each target, and from which load on one's own machine is cheaper.

A million *reference tokens* is what is compared: the texts that are a million tokens at the first target. Another target's tokens for
the same texts, divided by the first one's, are its factor, measured before the rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.bench.preflight import Checked
from serve_app.telemetry.cost import break_even_tokens_per_second, usd_per_million
from serve_app.telemetry.prices import Pricing


def factors(checked: list[Checked], workload: str) -> dict[str, float | None]:
    """Of each target, by name; None where one of the two doesn't say how many tokens it counted."""
    first = checked[0].tokens[workload]
    return {each.target.name: (each.tokens[workload] / first or None) if first else None for each in checked}


def dollars_per_million(
    price: float | None, hourly: float | None, factor: float | None, tokens_per_second: float
) -> float | None:
    """Dollars for a million reference tokens, of which the target did `tokens_per_second`: what it charges, or what its machine cost
    in the time it took, fully used. None if neither is known."""
    if price is not None:
        return None if factor is None else price * factor
    if hourly is None or not tokens_per_second > 0:
        return None
    return usd_per_million(hourly, tokens_per_second)


@dataclass(frozen=True)
class Line:
    """A price to hold one's own against: `dollars` for a million reference tokens, from `source`."""

    name: str
    dollars: float
    source: str

    def utilisation(self, hourly: float, tokens_per_second: float) -> float:
        """From which share of its full rate on a machine at `hourly` dollars costs less; over 1 it never does."""
        if self.dollars == 0:
            return float("inf")
        return break_even_tokens_per_second(hourly, self.dollars) / tokens_per_second


SHOWN = (
    "openai:text-embedding-3-large",
    "cohere:embed-v4.0",
    "alibaba:text-embedding-v4",
    "openai:text-embedding-3-small",
    "openrouter:qwen3-embedding-0.6b",
    "deepinfra:qwen3-embedding-0.6b",
)
"""Of the price book: the best known, a hosted Qwen3 of the vendor's own, and the cheapest."""


def lines(checked: list[Checked], workload: str, pricing: Pricing) -> list[Line]:
    """The targets' own prices, and the price book's, the dearest first."""
    factor = factors(checked, workload)
    found = []
    for each in checked:
        target = each.target
        dollars = dollars_per_million(target.price, None, factor[target.name], 0.0)
        if dollars is not None:
            found.append(Line(target.name, dollars, f"measured factor {factor[target.name]:.3g}"))
    for name in SHOWN:
        if name in pricing.hosted:
            hosted = pricing.hosted[name]
            found.append(Line(name, hosted.usd_per_million_of_ours, f"{hosted.source}, {hosted.date}"))
    return sorted(found, key=lambda line: -line.dollars)
