"""Money as a metric: `embedserve_cost_usd_total`, derived from other counters whenever they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from serve_app.telemetry.cost import Totals, cost_lines
from serve_app.telemetry.prices import Pricing


def cost_metrics(pricing: Pricing) -> Callable[[Totals], Iterable[Metric]]:
    """What makes the family out of the cluster's sums, at these prices."""

    def derive(totals: Totals) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "embedserve_cost_usd",
            "Dollars that the devices cost (side self), and that hosted offers would have asked for the same tokens.",
            labels=("side", "offer"),
        )
        for line in cost_lines(totals, pricing):
            family.add_metric((line.side, line.offer), line.usd)
        yield family

    return derive
