"""What came of a simulated run, as figures and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from loadtest.report import percentile, table
from loadtest.simulate_cluster import Cluster


def result(cluster: Cluster) -> dict[str, Any]:
    """The figures of one run. Rates and latencies are of the time after `warm`; utilisations of the whole run."""
    layout, now = cluster.layout, cluster.events.now
    replicas = [*cluster.replicas.values()]
    busy = [replica.busy_seconds / now for replica in replicas]
    # A turn may reach beyond the end.
    gateways = [(each.busy_seconds - max(0.0, each.time - now)) / now for each in cluster.gateways]
    proxies = [proxy.station.busy_seconds / now / layout.wire.proxy_threads for proxy in cluster.proxies]
    chunks = sum(gateway.chunks for gateway in cluster.gateways)
    sent, answered, refused = (sum(count.values()) for count in (cluster.sent, cluster.answered, cluster.refused))
    return {
        "replicas": len(replicas),
        "gateways": layout.gateways,
        "proxies": layout.proxies,
        "seconds": now,
        "inputs_sent": sent,
        "inputs_answered": answered,
        "inputs_refused": refused,
        "inputs_left": sent - answered - refused,
        "inputs_per_second": cluster.answered_warm / (now - cluster.warm),
        "latency_ms": {name: quantiles(values) for name, values in cluster.latencies.items()},
        "refusal_ms": quantiles(cluster.refusals),
        "wait_ms": quantiles(cluster.waits),
        "replica_utilization": _of(busy),
        "gateway_utilization": _of(gateways),
        "proxy_utilization": _of(proxies),
        "chunks_per_second": chunks / now,
        "inputs_per_chunk": sum(gateway.inputs for gateway in cluster.gateways) / chunks if chunks else 0.0,
        "held_back_tokens": sum(gateway.queue.tokens for gateway in cluster.gateways),
        "host": {
            "seconds": cluster.host_seconds,
            "events": cluster.events.handled,
            "events_per_second": cluster.events.handled / cluster.host_seconds if cluster.host_seconds else 0.0,
        },
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Milliseconds at which half and 99 % are done; None if nothing was."""
    return {f"p{q}": 1e3 * percentile(seconds, q) for q in (50, 99)} if len(seconds) else None


def print_rows(title: str, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """A table of these columns; a dot leads into a nested value."""
    print(f"\n{title}")
    print(table(columns, [[_cell(row, column) for column in columns] for row in rows]))


def _cell(row: dict[str, Any], column: str) -> str:
    value: Any = row
    for key in column.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _of(values: list[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "highest": max(values), "lowest": min(values)} if values else {}
