"""Who has used what: the counters of API keys as rows of a ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from serve_app.telemetry.cost import Totals

_COLUMNS = {
    "embedserve_key_requests_total": 0,
    "embedserve_key_inputs_total": 1,
    "embedserve_key_prompt_tokens_total": 2,
}


class Used(NamedTuple):
    """Answered requests, their inputs and tokens: sums that only grow."""

    requests: float = 0.0
    inputs: float = 0.0
    prompt_tokens: float = 0.0


Account: TypeAlias = tuple[str, str]
"""The name of a key and the id of a model."""

Rows: TypeAlias = dict[Account, Used]


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """One row of the report: what one key has used of one model. `usd` is that at what a million tokens cost here, None if unknown."""

    key: str
    model: str
    requests: float
    inputs: float
    prompt_tokens: float
    usd: float | None


@dataclass(frozen=True, slots=True)
class KeyUsageReport:
    """What the key that asks has used, all models together and each by itself."""

    object: str
    requests: float
    inputs: float
    prompt_tokens: float
    usd: float | None
    keys: list[KeyUsage]


def rows_of(totals: Totals) -> Rows:
    """The rows in the sums of a service's counters."""
    rows: dict[Account, list[float]] = {}
    for (name, pairs), value in totals.items():
        if (column := _COLUMNS.get(name)) is not None:
            labels = dict(pairs)
            rows.setdefault((labels["key"], labels["model"]), [0.0, 0.0, 0.0])[column] = value
    return {account: Used(*row) for account, row in rows.items()}


def summed(several: Iterable[Mapping[Account, Used]]) -> Rows:
    """Rows of sources that have nothing in common."""
    total: Rows = {}
    for rows in several:
        for account, used in rows.items():
            before = total.get(account, Used())
            total[account] = Used(*(a + b for a, b in zip(before, used, strict=True)))
    return total


def latest(one: Mapping[Account, Used], other: Mapping[Account, Used]) -> Rows:
    """Of two looks at the same source, what is counted in either: its sums only grow."""
    rows = dict(one)
    for account, used in other.items():
        before = rows.get(account, Used())
        rows[account] = Used(*map(max, zip(before, used, strict=True)))
    return rows


def key_usage(rows: Mapping[Account, Used], usd_per_million: float | None, key: str | None = None) -> list[KeyUsage]:
    """The rows of the report, of one key or of all, by name."""
    return [
        KeyUsage(
            name, model, *used, usd=None if usd_per_million is None else used.prompt_tokens / 1e6 * usd_per_million
        )
        for (name, model), used in sorted(rows.items())
        if key is None or name == key
    ]


def own_report(rows: list[KeyUsage]) -> KeyUsageReport:
    """The report of the key that all rows are of."""
    costs = [row.usd for row in rows if row.usd is not None]
    return KeyUsageReport(
        "key_usage",
        sum(row.requests for row in rows),
        sum(row.inputs for row in rows),
        sum(row.prompt_tokens for row in rows),
        sum(costs) if len(costs) == len(rows) else None,
        rows,
    )
