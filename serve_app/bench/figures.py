"""The figures of one round, from what the load generator wrote down."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.bench.record import STAGES, STATUS_NAMES, Record
from serve_app.bench.statistics import percentile


@dataclass(frozen=True)
class Figures:
    """One round of one target. Latencies are of requests answered with 200; None where there were none. `tokens_per_second` are the
    target's own tokens, as it bills them; 0 if it doesn't say."""

    requests: int
    errors: int
    error_share: float
    statuses: dict[str, int]
    requests_per_second: float
    inputs_per_second: float
    tokens_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    max_ms: float | None
    stages_ms: dict[str, float] = field(default_factory=dict)
    lag_p99_ms: float = 0.0
    generator_cpu: float = 0.0
    checked: int = 0
    wrong: int = 0

    def flat(self) -> dict[str, object]:
        """As columns of a table."""
        fields = asdict(self)
        statuses, stages = fields.pop("statuses"), fields.pop("stages_ms")
        words = " ".join(f"{status}:{count}" for status, count in statuses.items())
        return {**fields, "statuses": words, **{f"{stage}_ms": stages.get(stage) for stage in STAGES}}


def counted(record: Record) -> NDArray[np.bool_]:
    """Which requests belong to the measured window: those due in it. If a round was too short for its requests, and none was, those
    under way in it."""
    due_inside = (record.due >= 0) & (record.due < record.window)
    if due_inside.any():
        return due_inside
    return (record.due < record.window) & (record.due + record.seconds > 0)


def shares(record: Record) -> NDArray[np.float64]:
    """How much of every request happened in the window.

    In open loop a request is in it if its answer came in it. In closed loop it counts by the part of its time that lies in the window,
    so that rounds which hold few requests aren't rounded to whole ones.
    """
    ends = record.due + record.seconds
    if record.open:
        return ((ends >= 0) & (ends < record.window)).astype(np.float64)
    overlap = np.minimum(ends, record.window) - np.maximum(record.due, 0.0)
    parts: NDArray[np.float64] = np.clip(overlap, 0.0, None) / np.maximum(record.seconds, 1e-9)
    return parts


def latencies_ms(record: Record) -> NDArray[np.float64]:
    """Of the counted requests that were answered with 200."""
    found: NDArray[np.float64] = 1e3 * record.seconds[counted(record) & (record.status == 200)]
    return found


def figures(record: Record) -> Figures:
    """Of the measured window."""
    inside, good = counted(record), record.status == 200
    weights = shares(record) * good
    statuses = Counter(record.status[inside].tolist())
    errors = int((inside & ~good).sum())
    latencies = latencies_ms(record)

    def latency(q: float) -> float | None:
        return percentile(latencies, q) if latencies.size else None

    stages = record.stages[inside & good]
    return Figures(
        requests=int(inside.sum()),
        errors=errors,
        error_share=errors / max(1, int(inside.sum())),
        statuses={STATUS_NAMES.get(status, str(status)): count for status, count in sorted(statuses.items())},
        requests_per_second=float(weights.sum()) / record.window,
        inputs_per_second=float((weights * record.inputs).sum()) / record.window,
        tokens_per_second=float((weights * record.tokens).sum()) / record.window,
        p50_ms=latency(50),
        p95_ms=latency(95),
        p99_ms=latency(99),
        mean_ms=float(latencies.mean()) if latencies.size else None,
        max_ms=float(latencies.max()) if latencies.size else None,
        stages_ms={
            stage: float(np.nanmean(stages[:, i]))
            for i, stage in enumerate(STAGES)
            if stages.size and not np.isnan(stages[:, i]).all()
        },
        lag_p99_ms=1e3 * percentile(record.lag[inside], 99) if inside.any() else 0.0,
        generator_cpu=record.cpu_share,
        checked=record.checked,
        wrong=len(record.wrong),
    )
