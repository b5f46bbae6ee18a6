"""The autoscaling policy, alone and in a closed loop with a small model of a pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from serve_app.cluster.autoscaling import Memory, Observation, Parameters, ReplicaLoad, decide

RATE = 1000.0  # tokens per second of one replica
STEP = 0.1  # seconds


@dataclass
class Pool:
    """Replicas of `RATE`, work in one queue before them, a start-up time, reports an interval old, and the policy in charge.

    `load` gives the tokens that arrive per second, in replicas' worth; they come in requests of `request_tokens`, at random
    times, or smoothly without. Above `bound` seconds of backlog they are refused.
    """

    parameters: Parameters
    load: Callable[[float], float]
    running: int = 1
    startup_seconds: float = 5.0
    request_tokens: float = 0.0
    batch_seconds: float = 0.1
    bound: float = math.inf
    seed: int = 1
    now: float = 0.0
    backlog: float = 0.0
    target: int = field(init=False)
    first: int = field(init=False)
    replica_seconds: float = 0.0
    history: list[tuple[float, int]] = field(default_factory=list)

    def run(self, seconds: float) -> Pool:
        self.target = self.first = self.running
        chance = np.random.default_rng(self.seed)
        starting: list[float] = []
        seen: tuple[float, float, int] | None = None
        memory: Memory | None = None
        arrived, observed_at = 0.0, self.now
        for _ in range(round(seconds / STEP)):
            offered = self.load(self.now) * RATE * STEP
            if self.request_tokens:
                offered = self.request_tokens * chance.poisson(offered / self.request_tokens)
            if self.backlog >= self.bound * self.running * RATE:
                offered = 0.0
            arrived += offered
            self.backlog = max(0.0, self.backlog + offered - self.running * RATE * STEP)
            while starting and starting[0] <= self.now:
                del starting[0]
                self.running += 1
            if self.now - observed_at >= self.parameters.interval_seconds - STEP / 2:
                latest = (arrived / (self.now - observed_at), self.backlog, self.running)
                arrived, observed_at = 0.0, self.now
                wanted, memory = decide(self.observation(*(seen or latest)), self.parameters, memory)
                seen = latest
                if wanted > self.target:
                    starting += [self.now + self.startup_seconds] * (wanted - self.target)
                for _ in range(self.target - wanted):
                    if starting:
                        starting.pop()
                    else:
                        self.running -= 1
                if wanted != self.target:
                    self.history.append((self.now, wanted))
                self.target = wanted
            self.replica_seconds += self.target * STEP
            self.now += STEP
        return self

    def observation(self, arrived: float, backlog: float, reporting: int) -> Observation:
        share = backlog / reporting if reporting else 0.0
        running = min(share, RATE * self.batch_seconds)
        queued = min(share, 2 * RATE * self.batch_seconds) - running
        return Observation(
            time=self.now,
            replicas=tuple(ReplicaLoad(running, queued, RATE, 0.0) for _ in range(reporting)),
            running_replicas=self.running,
            target_replicas=self.target,
            held_back_tokens=backlog - reporting * (running + queued),
            held_back_growth=arrived,
            waiting_requests=float(backlog > 0 and not self.running),
        )

    @property
    def turns(self) -> int:
        """How often the direction of the changes changed."""
        moves = [b - a for a, b in pairwise([self.first, *(n for _, n in self.history)])]
        return sum(a * b < 0 for a, b in pairwise(moves))


def step(at: float, before: float, after: float) -> Callable[[float], float]:
    return lambda now: after if now >= at else before


PARAMETERS = Parameters(max_replicas=20)


@pytest.mark.parametrize("startup_seconds", [1.0, 5.0, 60.0])
def test_a_step_from_1_to_8_is_answered_at_once_and_at_the_right_height(startup_seconds: float) -> None:
    pool = Pool(PARAMETERS, step(30, 0.8, 6.4), startup_seconds=startup_seconds).run(600)
    (at, wanted), *more = pool.history
    assert at <= 36, "the decision within 6 s of the backlog"
    assert (wanted, more) == (8, [])
    assert pool.backlog == 0


@pytest.mark.parametrize("startup_seconds", [5.0, 60.0])
def test_arrivals_hidden_by_admission_are_followed_upwards_without_turning(startup_seconds: float) -> None:
    parameters = replace(PARAMETERS, max_wait_seconds=10)
    pool = Pool(parameters, step(30, 0.8, 6.4), startup_seconds=startup_seconds, bound=10).run(1000)
    assert pool.target == 8
    assert pool.turns == 0
    assert len(pool.history) <= 3
    assert pool.history[0][0] <= 36
    assert pool.history[0][1] >= 6, "from what arrived before the bound was reached"


def test_a_pool_found_at_the_bound_is_doubled_and_then_sees_what_arrives() -> None:
    parameters = replace(PARAMETERS, max_wait_seconds=10)
    pool = Pool(parameters, lambda _: 11.2, running=4, backlog=40 * RATE, startup_seconds=20, bound=10).run(300)
    assert [n for _, n in pool.history] == [8, 14]


def test_it_returns_with_one_change_of_direction() -> None:
    pool = Pool(PARAMETERS, lambda now: 6.4 if 30 <= now < 300 else 0.8).run(1500)
    assert max(n for _, n in pool.history) == 8
    assert pool.target == 1
    assert pool.turns == 1
    down = next(at for (_, before), (at, after) in pairwise(pool.history) if after < before)
    assert down >= 300 + PARAMETERS.downscale_delay_seconds


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("request_tokens", [20.0, 200.0])
def test_noise_changes_nothing(seed: int, request_tokens: float) -> None:
    pool = Pool(PARAMETERS, lambda _: 3.2, running=5, request_tokens=request_tokens, seed=seed).run(3600)
    assert pool.turns == 0
    assert pool.target in (4, 5)


@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_random_requests_is_followed(seed: int) -> None:
    pool = Pool(PARAMETERS, step(30, 0.5, 6.4), request_tokens=200.0, seed=seed).run(900)
    assert 30 <= pool.history[0][0] <= 36
    assert pool.target in (8, 9)
    assert pool.turns <= 1
    assert pool.backlog < 8 * RATE


def test_one_burst_that_running_replicas_soon_work_off_starts_none() -> None:
    pool = Pool(PARAMETERS, lambda now: 30.0 if 100 <= now < 100.3 else 0.5).run(600)
    assert pool.history == []


def test_a_great_backlog_gets_more_replicas_though_nothing_arrives() -> None:
    pool = Pool(PARAMETERS, lambda _: 0.0, backlog=240 * RATE).run(120)
    assert max(n for _, n in pool.history) in (4, 5)
    assert pool.backlog == 0


def test_a_backlog_keeps_the_replicas_that_work_it_off() -> None:
    parameters = replace(PARAMETERS, downscale_delay_seconds=3)
    pool = Pool(parameters, lambda _: 0.0, running=8, backlog=160 * RATE).run(60)
    assert pool.history[0][0] >= 18, "20 s of work for eight"
    assert pool.target == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_device_is_given_time_to_finish_a_batch_or_two(seed: int) -> None:
    # Requests of 10 s each, one every 25 s: one replica does them, though every one is a great backlog when it comes.
    pool = Pool(PARAMETERS, lambda _: 0.4, request_tokens=10 * RATE, batch_seconds=10, seed=seed).run(3600)
    assert max([n for _, n in pool.history], default=1) <= 2


def test_a_ramp_is_climbed_without_turning() -> None:
    pool = Pool(PARAMETERS, lambda now: 0.5 + 6 * min(now, 600) / 600).run(1500)
    assert pool.turns == 0
    assert pool.target in (7, 8)
    assert pool.backlog < 7 * RATE


def test_a_day_is_followed_cheaply() -> None:
    hours = 2.0
    pool = Pool(PARAMETERS, lambda now: 4 - 3.5 * math.cos(2 * math.pi * now / (hours * 3600))).run(hours * 3600)
    ideal = 4 / PARAMETERS.target_utilization * hours * 3600
    assert pool.turns == 1
    assert pool.replica_seconds <= 1.2 * ideal


def test_a_pool_falls_asleep_and_wakes() -> None:
    parameters = replace(
        PARAMETERS, min_replicas=0, downscale_delay_seconds=5, downscale_to_zero_delay_seconds=20, initial_replicas=1
    )
    pool = Pool(parameters, lambda now: 0.5 if now < 50 or 150 <= now < 200 else 0.0).run(260)
    assert [n for _, n in pool.history] == [0, 1, 0]
    (asleep, _), (awake, _), (again, _) = pool.history
    assert 70 <= asleep <= 74
    assert 150 <= awake <= 152
    assert 220 <= again <= 224


def test_a_pool_that_may_not_sleep_keeps_its_least() -> None:
    parameters = replace(PARAMETERS, min_replicas=2, downscale_delay_seconds=5)
    pool = Pool(parameters, lambda _: 0.0, running=4).run(60)
    assert pool.target == 2
    assert pool.turns == 0


def test_the_most_is_never_passed() -> None:
    pool = Pool(replace(PARAMETERS, max_replicas=3), lambda _: 6.0).run(60)
    assert {n for _, n in pool.history} == {3}


def seen(**values: object) -> Observation:
    return replace(Observation(0.0, (), 1, 1), **values)  # type: ignore[arg-type]


def test_nothing_changes_while_no_rate_is_known() -> None:
    memory = None
    for second in range(100):
        load = (ReplicaLoad(500.0, 10_000.0, 0.0, 10_000.0),)
        wanted, memory = decide(
            seen(time=second, replicas=load, running_replicas=1, target_replicas=1), PARAMETERS, memory
        )
        assert wanted == 1


def test_nothing_changes_while_nobody_reports() -> None:
    parameters = replace(PARAMETERS, min_replicas=0, downscale_delay_seconds=5, downscale_to_zero_delay_seconds=5)
    memory = None
    for second in range(100):
        wanted, memory = decide(seen(time=second, running_replicas=3, target_replicas=3), parameters, memory)
        assert wanted == 3


def test_replicas_that_all_died_are_wanted_still() -> None:
    _, memory = decide(seen(running_replicas=4, target_replicas=4), PARAMETERS, None)
    assert decide(seen(time=1.0, running_replicas=0, target_replicas=4), PARAMETERS, memory)[0] == 4
    assert (
        decide(seen(time=1.0, running_replicas=0, target_replicas=4, waiting_requests=3.0), PARAMETERS, memory)[0] == 4
    )


def test_the_number_to_start_with_applies_once_and_never_takes_replicas_away() -> None:
    parameters = replace(PARAMETERS, initial_replicas=3)
    wanted, memory = decide(seen(running_replicas=0, target_replicas=1), parameters, None)
    assert wanted == 3
    assert decide(seen(time=1.0, running_replicas=0, target_replicas=1), parameters, memory)[0] == 1
    assert decide(seen(running_replicas=8, target_replicas=8), parameters, None)[0] == 8


def test_a_batch_that_takes_long_is_no_reason_for_more() -> None:
    # 10 s of work, but all of it in the engine: another replica couldn't help.
    memory = None
    for second in range(60):
        load = (ReplicaLoad(10 * RATE, 0.0, RATE, RATE),)
        wanted, memory = decide(seen(time=second, replicas=load), PARAMETERS, memory)
        assert wanted == 1


def test_what_replicas_do_in_small_batches_is_not_taken_for_their_capacity() -> None:
    # Four replicas, each 5 % busy at a tenth of its full rate: 0.02 replicas' worth of work, 0.2 if the rate were believed.
    parameters = replace(PARAMETERS, downscale_delay_seconds=10)
    full = tuple(ReplicaLoad(100.0, 5 * RATE, RATE, RATE) for _ in range(4))
    slow = tuple(ReplicaLoad(1.0, 0.0, RATE / 10, RATE / 2) for _ in range(4))
    memory = None
    for second in range(3):
        _, memory = decide(seen(time=second, replicas=full, running_replicas=4, target_replicas=4), parameters, memory)
    for second in range(3, 60):
        wanted, memory = decide(
            seen(time=second, replicas=slow, running_replicas=4, target_replicas=4), parameters, memory
        )
    assert memory is not None
    assert memory.capacity == RATE
    assert wanted == 3  # 4 × 0.5 replicas' worth at 80 %
