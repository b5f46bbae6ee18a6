"""How rounds are interleaved and paired: against a load generator whose clock is made up, so that every figure is known beforehand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serve_app.bench.dialects import DIALECTS
from serve_app.bench.figures import figures, latencies_ms
from serve_app.bench.generator import Plan
from serve_app.bench.load import Load, callers, rates
from serve_app.bench.money import Line, dollars_per_million, factors
from serve_app.bench.preflight import Checked
from serve_app.bench.record import NO_ANSWER, Notes, Record
from serve_app.bench.rounds import Run, Schedule, run_rounds
from serve_app.bench.statistics import median_interval
from serve_app.bench.summary import distributions, rows, summarize
from serve_app.bench.target import Target

MACHINE = [1.0, 3.0, 1.5, 2.0, 1.0]
"""How slow the machine is in each round; it weighs on every target."""


def target(name: str, **fields: object) -> Target:
    return Target(name, "http://127.0.0.1:1", DIALECTS["openai"], "m", **fields)  # type: ignore[arg-type]


def plan_of(calls: list[Plan], name: str) -> list[Plan]:
    return [plan for plan in calls if plan.target.name == name]


class Generator:
    """Answers take `seconds` times how slow the machine is in this round, for each target its own."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.calls: list[Plan] = []

    def __call__(self, plan: Plan) -> Record:
        turn = len(plan_of(self.calls, plan.target.name))
        self.calls.append(plan)
        each = self.seconds[plan.target.name] * MACHINE[turn % len(MACHINE)]
        notes = Notes()
        for caller in range(plan.load.callers or 1):
            due = -plan.warm_seconds + caller * 1e-6
            while due < plan.seconds:
                notes.add(due, each, 0.0, 200, 1, 10, {"x-queue-ms": "1"})
                due += each
        return notes.record(plan.seconds, plan.load.open)


def measured(seconds: dict[str, float], schedule: Schedule) -> tuple[Generator, list[Run], list[Target]]:
    generator = Generator(seconds)
    targets = [target(name) for name in seconds]
    return generator, list(run_rounds(targets, schedule, generator)), targets


SCHEDULE = Schedule(["query"], callers("4"), rounds=5, seconds=1.0, warm_seconds=0.2)


def ratio(seconds: dict[str, float], schedule: Schedule = SCHEDULE) -> dict[str, dict[str, float]]:
    _, runs, targets = measured(seconds, schedule)
    found = rows(runs, targets, {"query": {each.name: 1.0 for each in targets}})
    other: dict[str, dict[str, float]] = summarize(found, targets)[1]["first_is"]
    return other


def test_two_copies_of_one_server_are_equal_although_the_machine_is_three_times_as_slow_at_times() -> None:
    found = ratio({"ours": 0.01, "copy": 0.01})
    for key in ("requests_per_second", "reference_tokens_per_second", "p50_ms", "p95_ms", "p99_ms"):
        assert found[key] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    enough = ratio({"ours": 0.01, "copy": 0.01}, replace(SCHEDULE, rounds=6))
    assert enough["p99_ms"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0, "from": 1.0, "to": 1.0}


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    # Ranks from tables of the sign test: 95 % at least.
    assert median_interval([1.0] * 5) is None
    for count, low, high in ((6, 1, 6), (10, 2, 9), (12, 3, 10), (20, 6, 15), (50, 18, 33)):
        assert median_interval([float(i) for i in range(count, 0, -1)]) == (low, high)


def test_a_server_that_takes_twice_as_long_has_half_the_rate_in_every_round() -> None:
    found = ratio({"ours": 0.01, "slow": 0.02})
    assert found["requests_per_second"] == pytest.approx({"median": 2.0, "lowest": 2.0, "highest": 2.0}, rel=0.01)
    assert found["p99_ms"] == pytest.approx({"median": 0.5, "lowest": 0.5, "highest": 0.5})


def test_targets_take_turns_and_get_the_same_requests_with_other_words() -> None:
    generator, _, _ = measured({"a": 0.01, "b": 0.02, "c": 0.03}, SCHEDULE)
    names = [plan.target.name for plan in generator.calls]
    assert [names[i : i + 3] for i in range(0, 15, 3)] == [
        list("abc"),
        list("bca"),
        list("cab"),
        list("abc"),
        list("bca"),
    ]
    for i in range(0, 15, 3):
        group = generator.calls[i : i + 3]
        assert len({(plan.first, plan.load, plan.seed) for plan in group}) == 1
        assert sorted(plan.salt for plan in group) == [0, 1, 2]
    firsts = [plan.first for plan in plan_of(generator.calls, "a")]
    # No round begins before the texts of the last one end, of the fastest target.
    assert all(
        later - first >= 4 * 1.2 / (0.01 * slow)
        for first, later, slow in zip(firsts, firsts[1:], MACHINE, strict=False)
    )


def test_a_share_is_of_the_slowest_target_with_most_callers() -> None:
    schedule = Schedule(["query"], callers("1,4") + rates("50%,7"), rounds=1, seconds=1.0, warm_seconds=0.0)
    generator, _, _ = measured({"fast": 0.01, "slow": 0.05}, schedule)
    opened = [plan.load for plan in generator.calls if plan.load.open]
    # The generator's clock runs on: the slowest has 4 callers, at its second call of 3 times 0.05 s each.
    slowest = 4 / (0.05 * MACHINE[1])
    assert [load.rate for load in opened] == pytest.approx([slowest / 2, slowest / 2, 7, 7], rel=0.01)
    assert all(not plan.load.open for plan in generator.calls[:4])


def test_loads_from_text() -> None:
    assert callers("1,8") == [Load(callers=1), Load(callers=8)]
    assert rates("50,70%") == [Load(rate=50.0), Load(share=0.7)]
    assert [load.name for load in (Load(callers=1), Load(callers=8), Load(rate=50.0))] == [
        "1 caller",
        "8 callers",
        "50/s",
    ]
    for wrong in ("0", "x"):
        with pytest.raises(ValueError, match=r".+"):
            callers(wrong)
        with pytest.raises(ValueError, match=r".+"):
            rates(wrong)


def record_of(requests: list[tuple[float, float, int]], window: float = 10.0, is_open: bool = False) -> Record:
    notes = Notes()
    for due, seconds, status in requests:
        notes.add(due, seconds, 0.0, status, 2, 30, {"x-tokenize-ms": "2.5"} if status == 200 else {})
    return notes.record(window, is_open)


def test_requests_due_in_the_window_are_counted_and_failures_apart() -> None:
    found = figures(
        record_of([(-1, 0.5, 200), (0, 1.0, 200), (1, 2.0, 200), (2, 3.0, 503), (3, 4.0, NO_ANSWER), (11, 1, 200)])
    )
    assert (found.requests, found.errors, found.error_share) == (4, 2, 0.5)
    assert found.statuses == {"no answer": 1, "200": 2, "503": 1}
    assert (found.p50_ms, found.p99_ms, found.mean_ms) == (1000.0, 2000.0, 1500.0)
    assert found.requests_per_second == pytest.approx(0.2)
    assert (found.inputs_per_second, found.tokens_per_second) == pytest.approx((0.4, 6.0))
    assert found.stages_ms == {"tokenize": 2.5}


def test_a_long_request_counts_by_the_part_of_it_that_lies_in_the_window() -> None:
    # One caller whose requests take 8 s: 1.25 a window of 10 s, wherever the window lies.
    found = figures(record_of([(-4, 8, 200), (4, 8, 200)]))
    assert found.requests_per_second == pytest.approx(10 / 8 / 10)
    assert found.requests == 1
    # A round too short for any to begin in it still has a latency.
    short = figures(record_of([(-1, 30, 200)]))
    assert short.p50_ms == 30_000
    assert short.requests_per_second == pytest.approx(10 / 30 / 10)


def test_in_open_loop_a_stall_is_in_all_that_had_to_wait_for_it() -> None:
    # Ten a second; the server stands still for the whole of 5 s and answers all of it at 5 s.
    record = record_of([(i / 10, max(0.01, 5 - i / 10), 200) for i in range(100)], is_open=True)
    found = figures(record)
    assert found.requests == 100
    assert found.p99_ms == pytest.approx(4900)
    assert found.p50_ms == pytest.approx(10)
    assert float(np.mean(latencies_ms(record) > 1000)) == pytest.approx(0.4, abs=0.02)
    assert found.requests_per_second == pytest.approx(10.0)


def test_tokens_and_dollars_are_in_the_first_targets_tokens() -> None:
    ours, other, mute = target("ours", hourly=3.6), target("other", price=0.1), target("mute", price=0.1)
    checked = [Checked(ours, 8, {"query": 100}), Checked(other, 8, {"query": 150}), Checked(mute, 8, {"query": 0})]
    assert factors(checked, "query") == {"ours": 1.0, "other": 1.5, "mute": None}
    assert dollars_per_million(None, 3.6, 1.0, 1000.0) == pytest.approx(1.0)
    assert dollars_per_million(0.1, None, 1.5, 1000.0) == pytest.approx(0.15)
    assert dollars_per_million(0.1, None, None, 1000.0) is None
    assert dollars_per_million(None, None, 1.0, 1000.0) is None
    # $3.6 an hour at 10,000 tokens/s are $0.1 a million when fully used: even with $0.5 at a fifth, with $0.05 never.
    assert Line("x", 0.5, "").utilisation(3.6, 10_000) == pytest.approx(0.2)
    assert Line("x", 0.05, "").utilisation(3.6, 10_000) == pytest.approx(2.0)


def test_distributions_pool_the_rounds_and_say_what_the_stages_leave() -> None:
    stages = {f"x-{stage}-ms": "10" for stage in ("tokenize", "queue", "inference", "render")}
    runs = []
    for number, seconds in enumerate((0.05, 0.15)):
        notes = Notes()
        for i in range(10):
            notes.add(i / 10, seconds, 0.0, 200, 1, 1, stages)
        record = notes.record(1.0, False)
        runs.append(Run(number, "ours", "query", Load(callers=1), figures(record), record))
    [row] = distributions(runs)
    assert row["requests"] == 20
    assert dict(row["quantiles_ms"])[50.0] == pytest.approx(50)
    assert dict(row["quantiles_ms"])[100.0] == pytest.approx(150)
    assert row["stages_ms"] == pytest.approx({"tokenize": 10, "queue": 10, "inference": 10, "render": 10, "rest": 60})
