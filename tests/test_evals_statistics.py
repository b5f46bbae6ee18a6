"""Intervals cover, tests find what is there and nothing else, and all of it comes out the same twice."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from serve_app.evals.metrics import Floats
from serve_app.evals.result import Comparison, Figure, Samples, SuiteResult
from serve_app.evals.statistics import FEWEST, compare, compare_all, interval, interval_of, mean_figure


@dataclass
class Made:
    """A suite's result with one figure of given values, and more of them for groups."""

    target: str
    values: Floats
    suite: str = "faq"
    first: int = 0

    def result(self, groups: dict[str, Floats] | None = None) -> SuiteResult:
        figures, samples = [], {}
        for group, values in {"": self.values, **(groups or {})}.items():
            ids = [f"q{self.first + number}" for number in range(len(values))]
            figure, kept = mean_figure("MRR", ids, values, group, 0)
            figures.append(figure)
            samples[figure.samples or ""] = kept
        return SuiteResult(self.suite, self.target, "MRR", figures, samples)


def test_an_interval_holds_the_true_mean_about_95_times_in_100() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        low, high = interval(draw.normal(3.0, 1.0, 60), seed)
        assert low is not None and high is not None
        held += low <= 3.0 <= high
    assert 180 <= held <= 198


def test_an_interval_is_that_of_normal_theory_where_that_holds() -> None:
    values = np.random.default_rng(2).normal(0.0, 1.0, 400)
    low, high = interval(values, 0)
    width = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - width, values.mean() + width), abs=0.15 * width)


def test_intervals_are_seeded_and_none_where_there_is_next_to_nothing() -> None:
    values = np.random.default_rng(3).random(50)
    assert interval(values, 7) == interval(values, 7) != interval(values, 8)
    assert interval(values[: FEWEST - 1], 7) == (None, None)
    assert interval(np.ones(20), 7) == (1.0, 1.0)
    assert interval_of(lambda draw: float("nan"), 20, 0) == (None, None)
    assert interval_of(lambda draw: values[draw].mean(), 50, 7) == interval_of(lambda draw: values[draw].mean(), 50, 7)


def test_memory_does_not_grow_with_resamples_times_items() -> None:
    values = np.random.default_rng(4).random(30_000)
    tracemalloc.start()
    low, high = interval(values, 0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert low is not None and high is not None
    assert low < values.mean() < high
    assert most < 200e6, "2,000 resamples at once would be 480 MB"


def test_a_difference_is_found_with_its_sign_and_chance_is_not() -> None:
    draw = np.random.default_rng(5)
    base = draw.random(120)
    better, same = base + draw.normal(0.1, 0.1, 120), base + draw.normal(0.0, 0.1, 120)
    [found] = compare(Made("a", better).result(), Made("b", base).result(), seed=1)
    assert found.significant
    assert found.difference == pytest.approx((better - base).mean())
    assert found.low < found.difference < found.high
    assert found.low > 0
    [turned] = compare(Made("b", base).result(), Made("a", better).result(), seed=1)
    assert turned.difference == -found.difference
    [chance] = compare(Made("a", same).result(), Made("b", base).result(), seed=1)
    assert not chance.significant
    [equal] = compare(Made("a", base).result(), Made("b", base).result(), seed=1)
    assert (equal.difference, equal.low, equal.high, equal.p_value, equal.significant) == (0, 0, 0, 1, False)


def test_chance_is_called_a_difference_no_more_often_than_promised() -> None:
    draw = np.random.default_rng(6)
    found = 0
    for seed in range(150):
        a, b = draw.random((2, 30)) < 0.5
        found += compare(Made("a", a.astype(float)).result(), Made("b", b.astype(float)).result(), seed)[0].significant
    assert found <= 15


def test_few_items_are_tested_exactly() -> None:
    differences = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    [found] = compare(Made("a", differences).result(), Made("b", np.zeros(8)).result(), seed=0)
    assert found.p_value == pytest.approx(2 / 2**8) == stats.wilcoxon(differences).pvalue


def test_the_test_agrees_with_the_t_test_where_that_holds() -> None:
    draw = np.random.default_rng(7)
    a = draw.normal(0.0, 1.0, 300)
    b = a + draw.normal(0.1, 1.0, 300)
    [found] = compare(Made("a", a).result(), Made("b", b).result(), seed=0)
    assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_items_are_matched_by_id() -> None:
    values = np.random.default_rng(8).random(20)
    [found] = compare(Made("a", values).result(), Made("b", values[5:], first=5).result(), seed=0)
    assert (found.n, found.difference) == (15, 0.0)
    assert compare(Made("a", values).result(), Made("b", values, first=100).result(), seed=0) == []
    assert compare(Made("a", values).result(), Made("b", values[: FEWEST - 1]).result(), seed=0) == []


def test_figures_without_samples_and_other_suites_are_not_compared() -> None:
    values = np.random.default_rng(9).random(20)
    bare = SuiteResult("faq", "b", "MRR", [Figure("MRR", 0.5)])
    assert compare(Made("a", values).result(), bare, seed=0) == []
    assert compare_all([Made("a", values).result(), Made("b", values, suite="techdocs").result()], seed=0) == []


def by_definition(p_values: list[float]) -> list[float]:
    """Holm: of m, the k-th smallest is multiplied by m - k + 1, and none may be below one before it."""
    order = np.argsort(p_values, kind="stable")
    found, most = [0.0] * len(p_values), 0.0
    for k, number in enumerate(order):
        most = max(most, min(1.0, p_values[number] * (len(p_values) - k)))
        found[number] = most
    return found


def raw(a: Floats, b: Floats, seed: int) -> float:
    """One test alone, which needs no correction."""
    return compare(Made("a", a).result(), Made("b", b).result(), seed)[0].p_value


def test_all_pairs_of_targets_are_corrected_together_and_groups_apart() -> None:
    draw = np.random.default_rng(10)
    base = draw.random(40)
    values = {name: base + draw.normal(shift, 0.3, 40) for name, shift in (("a", 0.0), ("b", 0.08), ("c", 0.16))}
    groups = {name: {"zh": each[:20], "en": each[20:]} for name, each in values.items()}
    found = compare_all([Made(name, each).result(groups[name]) for name, each in values.items()], seed=3)
    whole, grouped = ([one for one in found if bool(one.group) is kind] for kind in (False, True))
    assert [(one.a, one.b) for one in whole] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(grouped) == 6

    def expected(comparisons: list[Comparison], of: dict[str, dict[str, Floats]]) -> list[float]:
        return by_definition([raw(of[one.a][one.group], of[one.b][one.group], 3) for one in comparisons])

    assert [one.p_value for one in whole] == pytest.approx(expected(whole, {n: {"": v} for n, v in values.items()}))
    assert [one.p_value for one in grouped] == pytest.approx(expected(grouped, groups))
    assert all(one.significant == (one.p_value < 0.05) for one in found)


def test_groups_are_compared_by_the_headline_only() -> None:
    values = np.random.default_rng(11).random(20)
    ids = [str(number) for number in range(20)]

    def result(target: str) -> SuiteResult:
        pairs = [mean_figure(metric, ids, values, "zh", 0) for metric in ("MRR", "top-1")]
        kept: dict[str, Samples] = {figure.samples or "": samples for figure, samples in pairs}
        return SuiteResult("faq", target, "MRR", [figure for figure, _ in pairs], kept)

    assert [one.metric for one in compare(result("a"), result("b"), seed=0)] == ["MRR"]
