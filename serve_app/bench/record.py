"""What a load generator writes down of every request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

STAGES = ("tokenize", "queue", "inference", "render")
STAGE_HEADERS = {f"x-{stage}-ms": i for i, stage in enumerate(STAGES)}

NO_ANSWER, TIMED_OUT = 0, -1
"""What stands for a status where there's none: connection refused or lost, and no answer within the time there was."""
STATUS_NAMES = {NO_ANSWER: "no answer", TIMED_OUT: "timed out"}
MOST_MESSAGES = 5


@dataclass
class Record:
    """One round of one target, a row for every request, warm-up included.

    `due` is when a request was to leave: in open loop the moment fixed beforehand, in closed loop the one it left at. It counts in
    seconds from the start of the measured `window` (seconds), so it's negative in the warm-up. `seconds` is from then to the end of
    the reply. `lag` is how late it left. `stages` are the milliseconds `[n, 4]` of `STAGES` that the reply's headers named, NaN where
    they didn't. `cpu_share` is of one core, over the whole run, of the load generator.
    """

    window: float
    open: bool
    due: NDArray[np.float64]
    seconds: NDArray[np.float64]
    lag: NDArray[np.float64]
    status: NDArray[np.int64]
    inputs: NDArray[np.int64]
    tokens: NDArray[np.int64]
    stages: NDArray[np.float64]
    cpu_share: float = 0.0
    checked: int = 0
    wrong: list[str] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)


class Notes:
    """Rows being written down."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float, int, int, int]] = []
        self.stages: list[tuple[float, ...]] = []
        self.messages: Counter[str] = Counter()

    def add(
        self, due: float, seconds: float, lag: float, status: int, inputs: int, tokens: int, stages: dict[str, str]
    ) -> None:
        """One request; `stages` may hold other headers too."""
        self.rows.append((due, seconds, lag, status, inputs, tokens))
        self.stages.append(tuple(_milliseconds(stages.get(name)) for name in STAGE_HEADERS))

    def record(self, window: float, is_open: bool) -> Record:
        """All of them, in order of when they were due."""
        rows = np.array(self.rows, dtype=np.float64).reshape(-1, 6)
        stages = np.array(self.stages, dtype=np.float64).reshape(-1, len(STAGES))
        order = np.argsort(rows[:, 0], kind="stable")
        rows, stages = rows[order], stages[order]
        whole = rows[:, 3:].astype(np.int64)
        columns = (rows[:, 0], rows[:, 1], rows[:, 2], whole[:, 0], whole[:, 1], whole[:, 2])
        return Record(window, is_open, *columns, stages, messages=self.messages)


def _milliseconds(text: str | None) -> float:
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")
