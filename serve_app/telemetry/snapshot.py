"""Samples as plain data: what one directory, one node or the whole cluster has counted at a moment."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Name and value of each label, sorted by name."""

Series: TypeAlias = tuple[str, Labels]
"""A sample's full name, say `embedserve_requests_total`, and its labels."""


class Family(NamedTuple):
    """A metric family: `kind` is Prometheus's type; `mode` says how gauges of several processes become one: `livesum`, `livemax`."""

    name: str
    kind: str
    help: str
    mode: str = ""


@dataclass(slots=True)
class Snapshot:
    """Values by family and series. The buckets of histograms are each by itself, not cumulated, so that adding is all it takes."""

    families: dict[str, Family] = field(default_factory=dict)
    values: dict[str, dict[Series, float]] = field(default_factory=dict)

    def put(self, family: Family, series: Series, value: float) -> None:
        """Add one sample, as its family adds: most by sum, `livemax` by maximum."""
        samples = self.values.get(family.name)
        if samples is None:
            self.families[family.name] = family
            samples = self.values[family.name] = {}
        if family.mode == "livemax":
            samples[series] = max(samples.get(series, value), value)
        else:
            samples[series] = samples.get(series, 0.0) + value

    def add(self, other: Snapshot) -> None:
        """Add all of another snapshot."""
        for name, samples in other.values.items():
            for series, value in samples.items():
                self.put(other.families[name], series, value)

    def lasting(self) -> Snapshot:
        """Without gauges: what stays true once the processes are gone."""
        names = [name for name, family in self.families.items() if family.kind != "gauge"]
        return Snapshot({name: self.families[name] for name in names}, {name: self.values[name] for name in names})

    def totals(self) -> dict[Series, float]:
        """Every counter and gauge, and each histogram's `_sum` and `_count`, by series."""
        totals: dict[Series, float] = {}
        for metric in self.metrics():
            for sample in metric.samples:
                if "le" not in sample.labels:
                    totals[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        return totals

    def metrics(self) -> Iterator[Metric]:
        """The families for `prometheus_client`'s text formats, in alphabetical order."""
        for name in sorted(self.families):
            family, samples = self.families[name], self.values[name]
            metric = Metric(name, family.help, family.kind)
            if family.kind == "histogram":
                _add_histogram(metric, samples)
            else:
                for (sample, labels), value in sorted(samples.items()):
                    metric.add_sample(sample, dict(labels), value)
            yield metric

    def encode(self) -> bytes:
        """As bytes; `decode` reads them, in another version of this package too."""
        families = [list(family) for family in self.families.values()]
        values = [
            [name, sample, dict(labels), value]
            for name, samples in self.values.items()
            for (sample, labels), value in samples.items()
        ]
        return zlib.compress(json.dumps([families, values]).encode(), 1)

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """What `encode` wrote."""
        families, values = json.loads(zlib.decompress(data))
        known = {family[0]: Family(*family) for family in families}
        snapshot = cls()
        for name, sample, labels, value in values:
            snapshot.put(known[name], (sample, tuple(sorted(labels.items()))), value)
        return snapshot


def add_all(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of snapshots."""
    total = Snapshot()
    for snapshot in snapshots:
        total.add(snapshot)
    return total


def _add_histogram(metric: Metric, samples: dict[Series, float]) -> None:
    """Cumulate the buckets of each label set, and count by them."""
    sums: dict[Labels, float] = {}
    buckets: dict[Labels, dict[float, float]] = {}
    for (_, labels), value in samples.items():
        le = dict(labels).get("le")
        if le is None:
            sums[labels] = value
        else:
            rest = tuple(pair for pair in labels if pair[0] != "le")
            buckets.setdefault(rest, {})[float(le)] = value
    for labels, counts in sorted(buckets.items()):
        total = 0.0
        for bound, count in sorted(counts.items()):
            total += count
            metric.add_sample(f"{metric.name}_bucket", {**dict(labels), "le": floatToGoString(bound)}, total)
        metric.add_sample(f"{metric.name}_count", dict(labels), total)
        metric.add_sample(f"{metric.name}_sum", dict(labels), sums.get(labels, 0.0))
