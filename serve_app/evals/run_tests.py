"""Paired tests between all targets, with p-values corrected for how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from msgspec.structs import replace

from serve_app.evals.result import Comparison, SuiteResult
from serve_app.evals.statistics import compare

ALPHA = 0.05
"""Chance of one or more false findings among the tests of a suite."""


def compared(results: Sequence[SuiteResult], seed: int) -> list[Comparison]:
    """Of all pairs of targets, suite by suite. The tests of a suite are one family."""
    found: list[Comparison] = []
    for suite in dict.fromkeys(result.suite for result in results):
        measured = [result for result in results if result.suite == suite]
        found += corrected([test for a, b in combinations(measured, 2) for test in compare(a, b, seed)])
    return found


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same, in their order, with p-values after Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979) over all
    of them, and `significant` by those."""
    order = sorted(range(len(comparisons)), key=lambda number: comparisons[number].p_value)
    found = list(comparisons)
    highest = 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, comparisons[number].p_value * (len(order) - rank)))
        found[number] = replace(comparisons[number], p_value=highest, significant=highest < ALPHA)
    return found
