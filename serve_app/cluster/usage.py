"""`GET /v1/usage`: the cost report of the whole cluster, on any gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from serve_app.api.http import Reply, Request, json_reply
from serve_app.api.routing import Route
from serve_app.config import CostSettings
from serve_app.telemetry.cost import Totals, consumption
from serve_app.telemetry.prices import Pricing, read_price_book
from serve_app.telemetry.usage import UsageReport, usage_report


def pricing(cost: CostSettings) -> Pricing:
    """The prices that the settings choose. Raises ValueError, saying what is wrong, if they can't be read or used."""
    book = read_price_book(cost.price_book)
    return book.pricing(cost.gpu, cost.gpu_usd_per_hour, cost.cpu_usd_per_hour, cost.token_factor)


def usage_route(totals: Callable[[], Awaitable[Totals]], prices: Pricing) -> Route:
    """The route; `totals` gives the cluster's sums, the same that `/metrics` shows."""

    async def usage(request: Request) -> Reply:
        return json_reply(usage_report(consumption(await totals()), prices))

    return Route(
        "GET", "/v1/usage", usage, "What was served, what it cost, what it would cost elsewhere", {200: UsageReport}
    )
