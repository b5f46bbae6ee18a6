"""How sure a figure is, and whether two targets differ. By scipy; every draw is seeded.

Intervals are percentile bootstrap intervals at 95 % over items (queries, pairs, texts). They say how much the figure would vary with
other items of the same kind, not how the model would do on other kinds.

Two targets that met the same items are compared by a paired permutation test of the mean difference (two-sided). Its p-values are
corrected after Holm for the number of figures and pairs of targets tested together: those of a suite as a whole among themselves, and
those of its groups among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from serve_app.evals.result import Comparison, Figure, Samples, SuiteResult

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
PERMUTATIONS = 9999
ALPHA = 0.05
FEWEST = 5
"""Fewer items than this get no interval: resampling them says nothing."""

BLOCK = 4_000_000
"""How many numbers are drawn at a time: bounds the memory that large data take."""


def interval(values: Floats, seed: int) -> tuple[float | None, float | None]:
    """Of the mean of `values` [items]."""
    if len(values) < FEWEST:
        return None, None
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def interval_of(
    statistic: Callable[[npt.NDArray[np.int64]], float], items: int, seed: int, resamples: int = 500
) -> tuple[float | None, float | None]:
    """Of what `statistic` makes of a resampled list of item numbers [items]; where it can't (NaN), that draw is left out."""
    if items < FEWEST:
        return None, None
    draw = np.random.default_rng(seed)
    found = np.array([statistic(draw.integers(0, items, items)) for _ in range(resamples)])
    if np.isnan(found).all():
        return None, None
    low, high = np.nanquantile(found, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def draws_of(items: int, seed: int) -> npt.NDArray[np.int64] | None:
    """Item numbers `[RESAMPLES, items]`, for statistics that take all resamples at once; None if the items are too few."""
    if items < FEWEST:
        return None
    return np.random.default_rng(seed).integers(0, items, (RESAMPLES, items))


def bounds(values: Floats) -> tuple[float, float]:
    """The middle 95 % of a statistic's values over resamples."""
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def _batch(items: int) -> int:
    return max(1, BLOCK // items)


def mean_figure(metric: str, ids: list[str], values: Floats, group: str, seed: int) -> tuple[Figure, Samples]:
    """A mean over items with its interval, and the items' values."""
    low, high = interval(values, seed)
    name = f"{metric} {group}".strip()
    figure = Figure(metric, float(values.mean()), low, high, group, len(values), name)
    return figure, Samples(ids, [float(value) for value in values])


def compare(a: SuiteResult, b: SuiteResult, seed: int = 0) -> list[Comparison]:
    """Every figure that both have with samples, on the items both have."""
    return compare_all([a, b], seed)


def compare_all(results: Iterable[SuiteResult], seed: int = 0) -> list[Comparison]:
    """All pairs of targets of the same suite, corrected together."""
    corrected: list[Comparison] = []
    listed = list(results)
    for suite in dict.fromkeys(result.suite for result in listed):
        found = [
            comparison
            for a, b in combinations([result for result in listed if result.suite == suite], 2)
            for comparison in _tests(a, b, seed)
        ]
        corrected += _holm([one for one in found if not one.group]) + _holm([one for one in found if one.group])
    return corrected


def _tests(a: SuiteResult, b: SuiteResult, seed: int) -> list[Comparison]:
    others = {(figure.metric, figure.group): figure for figure in b.figures}
    found = []
    for figure in a.figures:
        other = others.get((figure.metric, figure.group))
        if figure.samples is None or other is None or other.samples is None:
            continue
        # Groups are compared by the headline's metric only: every further test makes all of them less sharp.
        if figure.group and figure.metric != a.headline:
            continue
        known = dict(zip(b.samples[other.samples].ids, b.samples[other.samples].values, strict=True))
        mine = a.samples[figure.samples]
        pairs = [(value, known[i]) for i, value in zip(mine.ids, mine.values, strict=True) if i in known]
        if len(pairs) >= FEWEST:
            found.append(_test(a, b, figure, np.array(pairs, dtype=np.float64), seed))
    return found


def _test(a: SuiteResult, b: SuiteResult, figure: Figure, pairs: Floats, seed: int) -> Comparison:
    differences = pairs[:, 0] - pairs[:, 1]
    low, high = interval(differences, seed)
    assert low is not None and high is not None
    p_value = 1.0
    if differences.any():
        # Permuting within a pair changes the sign of its difference and nothing else.
        tested = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=PERMUTATIONS,
            vectorized=True,
            batch=_batch(len(differences)),
            rng=np.random.default_rng(seed),
        )
        p_value = float(tested.pvalue)
    mean = float(differences.mean())
    return Comparison(
        a.suite, figure.metric, figure.group, a.target, b.target, mean, low, high, p_value, len(pairs), False
    )


def _holm(found: list[Comparison]) -> list[Comparison]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979): as sure as Bonferroni's, and sharper."""
    order = sorted(range(len(found)), key=lambda number: found[number].p_value)
    corrected, largest = dict[int, float](), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, found[number].p_value * (len(found) - rank)))
        corrected[number] = largest
    return [
        Comparison(
            *(one.suite, one.metric, one.group, one.a, one.b, one.difference, one.low, one.high),
            corrected[number],
            one.n,
            corrected[number] < ALPHA,
        )
        for number, one in enumerate(found)
    ]
