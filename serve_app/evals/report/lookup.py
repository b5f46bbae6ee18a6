"""Finding things in a run."""

from __future__ import annotations

import msgspec

from serve_app.evals.result import Comparison, Figure, Run, SuiteResult


def suites(run: Run) -> list[str]:
    """All that were asked for, in order, those that failed for every target included."""
    failed = (place.rpartition("/")[2] for place in run.failures)
    return list(dict.fromkeys([*(result.suite for result in run.results), *failed]))


def targets(run: Run) -> list[str]:
    return list(dict.fromkeys([*(use.name for use in run.targets), *(result.target for result in run.results)]))


def results_of(run: Run, suite: str) -> dict[str, SuiteResult]:
    """By target, in the order of the targets."""
    found = {result.target: result for result in run.results if result.suite == suite}
    return {name: found[name] for name in targets(run) if name in found}


def failures_of(run: Run, suite: str) -> dict[str, str]:
    """By target. A target's name may have a slash in it, a suite's has none."""
    split = ((place.rpartition("/"), why) for place, why in run.failures.items())
    return {target: why for (target, _, name), why in split if name == suite}


def figure_of(result: SuiteResult | None, metric: str, group: str = "") -> Figure | None:
    figures = result.figures if result else []
    return next((figure for figure in figures if (figure.metric, figure.group) == (metric, group)), None)


def headline(result: SuiteResult | None) -> Figure | None:
    return figure_of(result, result.headline) if result else None


def comparison_of(run: Run, suite: str, metric: str, a: str, b: str) -> Comparison | None:
    """That of two targets on a suite's figure of all items, turned so that its difference is `a` − `b`."""
    for found in run.comparisons:
        if (found.suite, found.metric, found.group) != (suite, metric, ""):
            continue
        if (found.a, found.b) == (a, b):
            return found
        if (found.a, found.b) == (b, a):
            turned = {"a": a, "b": b, "difference": -found.difference, "low": -found.high, "high": -found.low}
            return msgspec.structs.replace(found, **turned)
    return None
