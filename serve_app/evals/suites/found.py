"""Collects what a suite finds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from serve_app.evals.result import Figure, Plot, Samples, SuiteResult
from serve_app.evals.statistics import mean_figure


@dataclass
class Found:
    """Figures with their samples, in the order in which they will be shown."""

    suite: str
    target: str
    headline: str
    seed: int
    figures: list[Figure] = field(default_factory=list)
    samples: dict[str, Samples] = field(default_factory=dict)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def mean(
        self, metric: str, ids: list[str], values: npt.NDArray[np.float64], group: str = "", *, kept: bool = True
    ) -> float:
        """Add a metric's mean over items [items], with interval and, if `kept`, samples. Returns the mean."""
        figure, samples = mean_figure(metric, ids, values, group, self.seed)
        if kept:
            self.samples[figure.samples or ""] = samples
        else:
            figure = replace(figure, samples=None)
        self.figures.append(figure)
        return figure.value

    def result(self) -> SuiteResult:
        """All of it."""
        return SuiteResult(self.suite, self.target, self.headline, self.figures, self.samples, self.plots, self.notes)
