"""`GET /v1/usage`: the cost report of the whole cluster, and what API keys have used, on any gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from serve_app.api.http import Reply, Request, json_reply
from serve_app.api.routing import Route
from serve_app.cluster.ledger import Ledger
from serve_app.config import CostSettings
from serve_app.telemetry.cost import consumption
from serve_app.telemetry.ledger import KeyUsageReport, key_usage, own_report
from serve_app.telemetry.prices import Pricing, read_price_book
from serve_app.telemetry.snapshot import Snapshot, add_all
from serve_app.telemetry.usage import UsageReport, usage_report


def pricing(cost: CostSettings) -> Pricing:
    """The prices that the settings choose. Raises ValueError, saying what is wrong, if they can't be read or used."""
    book = read_price_book(cost.price_book)
    return book.pricing(cost.gpu, cost.gpu_usd_per_hour, cost.cpu_usd_per_hour, cost.token_factor)


def usage_route(
    counted: Callable[[], Awaitable[Mapping[str, Snapshot]]], prices: Pricing, ledger: Ledger | None = None
) -> Route:
    """The route; `counted` gives the cluster's sums by their directories, the same that `/metrics` shows.

    A key without `admin` gets its own rows and nothing else. Without a `ledger`, rows are of what was counted since counters began.
    """
    accounts = ledger or Ledger()

    async def usage(request: Request) -> Reply:
        directories = await counted()
        report = usage_report(consumption(add_all(directories.values()).totals()), prices)
        rows = await accounts.rows(directories)
        price = report.usd_per_million_tokens
        if request.grant is not None and not request.grant.admin:
            return json_reply(own_report(key_usage(rows, price, request.grant.name)))
        return json_reply(replace(report, keys=key_usage(rows, price)))

    return Route(
        "GET",
        "/v1/usage",
        usage,
        "What was served, what it cost, what it would cost elsewhere; a key without `admin` sees only what it has used itself",
        {200: UsageReport | KeyUsageReport},
    )
