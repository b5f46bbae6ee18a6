"""Medians over the rounds, and ratios taken within each round.

What else the machine does, or the network, weighs on all targets of a round alike and cancels out of a ratio; a ratio of two medians
would keep it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from serve_app.bench.figures import latencies_ms
from serve_app.bench.money import dollars_per_million
from serve_app.bench.record import STAGES
from serve_app.bench.rounds import Run
from serve_app.bench.statistics import median_interval, percentile, spread
from serve_app.bench.target import Target

FIGURES = (
    "requests_per_second",
    "inputs_per_second",
    "reference_tokens_per_second",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "mean_ms",
    "dollars_per_million",
)
QUANTILES = [*(float(q) for q in range(100)), 99.5, 99.9, 100.0]

Row = dict[str, Any]


def rows(runs: Iterable[Run], targets: list[Target], factors: dict[str, dict[str, float | None]]) -> list[Row]:
    """One per round of a target: its figures, with tokens and dollars in reference tokens. `factors` are by workload and target."""
    by_name = {target.name: target for target in targets}
    found = []
    for run in runs:
        target, factor = by_name[run.target], factors[run.workload][run.target]
        rate = run.figures.tokens_per_second / factor if factor else 0.0
        found.append(
            {
                "round": run.round + 1,
                "workload": run.workload,
                "load": run.load.name,
                "open": run.load.open,
                "target": run.target,
                **run.figures.flat(),
                "reference_tokens_per_second": rate or None,
                "dollars_per_million": dollars_per_million(target.price, target.hourly, factor, rate),
            }
        )
    return found


def summarize(found: list[Row], targets: list[Target]) -> list[Row]:
    """One per workload, load and target: `spread`s of the figures over the rounds, and, for all but the first target, `first_is`:
    of the first target's figures divided by this one's, round by round, spreads and 95 % intervals of the median."""
    cells: dict[tuple[str, str], dict[str, dict[int, Row]]] = {}
    for row in found:
        cells.setdefault((row["workload"], row["load"]), {}).setdefault(row["target"], {})[row["round"]] = row
    summary = []
    for (workload, load), by_target in cells.items():
        first = by_target[targets[0].name]
        for target in targets:
            mine = by_target[target.name]
            requests, errors = (sum(row[key] for row in mine.values()) for key in ("requests", "errors"))
            line: Row = {
                "workload": workload,
                "load": load,
                "open": next(iter(mine.values()))["open"],
                "target": target.name,
                "rounds": len(mine),
                "requests": requests,
                "errors": errors,
                "error_share": errors / max(1, requests),
                "wrong": sum(row["wrong"] for row in mine.values()),
                "generator_cpu": max(row["generator_cpu"] for row in mine.values()),
                "lag_p99_ms": max(row["lag_p99_ms"] for row in mine.values()),
            }
            line |= {key: _spread([row[key] for row in mine.values()]) for key in FIGURES}
            if target is not targets[0]:
                line["first_is"] = {
                    key: _ratios([_ratio(first[n][key], row[key]) for n, row in mine.items() if n in first])
                    for key in FIGURES
                }
            summary.append(line)
    return summary


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def _spread(values: list[float | None]) -> dict[str, float] | None:
    """Of those there are; None for none. A figure that is missing in a round leaves that round out."""
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def _ratios(values: list[float | None]) -> dict[str, Any] | None:
    """Their spread, and where the true median lies (`from`, `to`) if there are enough to tell."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    interval = median_interval(known)
    return spread(known) | ({"from": interval[0], "to": interval[1]} if interval else {})


def distributions(runs: list[Run]) -> list[Row]:
    """Of each workload, load and target, all rounds together: the quantiles of the latency, and the stages of the replies that named
    them, with what of the latency is left (`rest`: the network, proxies, parsing, the load generator)."""
    cells: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.workload, run.load.name, run.target), []).append(run)
    found = []
    for (workload, load, target), group in cells.items():
        latencies = np.concatenate([latencies_ms(run.record) for run in group])
        row: Row = {"workload": workload, "load": load, "target": target, "requests": int(latencies.size)}
        if latencies.size:
            row["quantiles_ms"] = [[q, percentile(latencies, q)] for q in QUANTILES]
        row["stages_ms"] = _stages(group)
        found.append(row)
    return found


def _stages(group: list[Run]) -> dict[str, float] | None:
    told = [run.figures for run in group if set(run.figures.stages_ms) == set(STAGES) and run.figures.mean_ms]
    if not told:
        return None
    weights = [figures.requests - figures.errors for figures in told]
    means = {stage: float(np.average([f.stages_ms[stage] for f in told], weights=weights)) for stage in STAGES}
    whole = float(np.average([f.mean_ms or 0.0 for f in told], weights=weights))
    return {**means, "rest": max(0.0, whole - sum(means.values()))}
