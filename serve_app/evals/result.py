"""What a suite found, as plain data: written as JSON, shown as Markdown and HTML, compared between runs."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

FORMAT = 1
"""Of the JSON file. Counted up when an older version couldn't read it or would read it wrongly."""


class Figure(Struct, frozen=True):
    """One number of a table. `low` and `high` are the ends of its 95 % bootstrap confidence interval, None where there is none.

    `samples` is the name of the list in `SuiteResult.samples` whose mean `value` is; figures without one take part in no paired test.
    """

    metric: str
    """Field-standard name: `nDCG@10`, `recall@10`, `MRR`, `top-1`, `V-measure`, …"""
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    """What part of the suite: `zh→en`, `hard-negation`, `256 dims int8`; empty: all of it."""
    n: int = 0
    """How many items the value was computed over."""
    samples: str | None = None
    unit: str = ""
    """Empty for shares of 1; otherwise `bytes`, `s`, …"""


class Samples(Struct, frozen=True):
    """A metric's value for each item (query, pair): what paired tests and comparisons of two runs work on."""

    ids: list[str]
    values: list[float]


class Plot(Struct, frozen=True):
    """Data of one drawing. `kind` decides what the others mean.

    `heatmap`: `values` [rows][columns], with `rows` and `columns` as labels. `lines`: `x`, and `series` by name.
    `scatter`: `points` [[x, y], …] with a `labels` entry each and an optional `marks` entry each (a second label, drawn as shape).
    `histogram`: `series` by name, each a list of values.
    """

    kind: str
    title: str
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    x: list[float] = field(default_factory=list)
    x_label: str = ""
    y_label: str = ""
    series: dict[str, list[float]] = field(default_factory=dict)
    points: list[list[float]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)


class SuiteResult(Struct, frozen=True):
    """One suite on one target."""

    suite: str
    target: str
    headline: str
    """`metric` of the figure (of the empty group) that a reader should look at first."""
    figures: list[Figure]
    samples: dict[str, Samples] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know to read the figures right."""


class TargetUse(Struct, frozen=True):
    """What a target was, and what asking it took. Latency is of the requests really sent, not of cached ones."""

    name: str
    model: str
    dimensions: int
    described: dict[str, Any]
    """Everything that was told about it, keys left out."""
    texts: int = 0
    cached: int = 0
    tokens: int = 0
    requests: int = 0
    seconds: float = 0.0
    latency_p50: float | None = None
    latency_p95: float | None = None
    usd: float | None = None
    usd_per_million_tokens: float | None = None
    notes: list[str] = field(default_factory=list)


class Comparison(Struct, frozen=True):
    """A paired test of two targets on the same items of one figure: `difference` is the mean of a − b with its 95 % interval."""

    suite: str
    metric: str
    group: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    significant: bool


class Run(Struct, frozen=True):
    """One call of `embedserve eval`: the JSON file."""

    version: str
    started: str
    command: list[str]
    seed: int
    data: dict[str, str]
    """SHA-256 of each suite's data, by suite."""
    targets: list[TargetUse]
    results: list[SuiteResult]
    comparisons: list[Comparison] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """`target/suite` → why it wasn't measured."""
    format: int = FORMAT
