"""A snapshot in Prometheus's text format, or OpenMetrics where the client asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serve_app.telemetry.snapshot import Series, Snapshot

Derived: TypeAlias = Callable[[Mapping[Series, float]], Iterable[Metric]]
"""Families that follow from the totals of others by arithmetic."""


class SnapshotCollector(Collector):
    """A snapshot as `prometheus_client` and its HTTP server want it: `take` gives the latest one."""

    def __init__(self, take: Callable[[], Snapshot], derived: Sequence[Derived] = ()) -> None:
        self._take = take
        self._derived = derived

    def collect(self) -> Iterator[Metric]:
        """The families of a snapshot taken now."""
        snapshot = self._take()
        yield from snapshot.metrics()
        if self._derived:
            totals = snapshot.totals()
            for derive in self._derived:
                yield from derive(totals)


def render(snapshot: Snapshot, accept: str, derived: Sequence[Derived] = ()) -> tuple[bytes, str]:
    """The body and its content type, as the `Accept` header wants them."""
    encode, content_type = choose_encoder(accept)
    return encode(SnapshotCollector(lambda: snapshot, derived)), content_type
