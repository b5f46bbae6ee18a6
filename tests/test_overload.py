"""Overload: the arithmetic of its benchmark, and a short one against the real service around an emulated device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from loadtest.emulated import EmulatedVectors
from loadtest.open_loop import OpenPlan, OpenRun, Outcome, drive_open
from loadtest.overload import (
    AFTER,
    BEFORE,
    HEALTH,
    OVERLOAD,
    MemoryWatch,
    Phases,
    figures,
    recovery_seconds,
    told_to_retry,
)
from loadtest.replies import WrongReplyError
from loadtest.running import emulated
from loadtest.workload import MEDIUM, tokenizer
from serve_app.types import DEMO_MODEL_ID
from tests.test_loadtest import reply_of

TOLD = {"retry-after": "2", "retry-after-ms": "1500", "x-should-retry": "true"}
PHASES = Phases(calm_rate=2, overload_rate=4, before=10, overload=10, after=10)


def accepted(stream: str, number: int, due: float, seconds: float = 0.5) -> Outcome:
    ids = tokenizer().encode_batch([MEDIUM.text(number)])
    body = reply_of(EmulatedVectors().encode(ids), tokens=len(ids[0]))
    return Outcome(stream, number, due, seconds, seconds, status=200, tries=1, body=body)


def refused(due: float, headers: dict[str, str] | None = None, stream: str = OVERLOAD) -> Outcome:
    return Outcome(stream, 0, due, 0.02, 0.02, status=429, tries=1, headers=TOLD if headers is None else headers)


def a_run() -> OpenRun:
    calm = [accepted(BEFORE, i, i / 2) for i in range(20)]
    loaded = [accepted(OVERLOAD, 100 + i, 10 + i / 2) for i in range(20)] + [refused(10 + i / 2) for i in range(20)]
    after = [
        refused(20.5, stream=AFTER),
        accepted(AFTER, 200, 21, 1.1),
        accepted(AFTER, 201, 22),
        accepted(AFTER, 202, 23),
    ]
    health = [Outcome(HEALTH, i, 10 + i, 0.01, 0.01, status=503 if i == 3 else 200) for i in range(15)]
    return OpenRun(0.0, [*calm, *loaded, *after, *health])


def test_the_figures_of_a_round() -> None:
    found = figures(a_run(), PHASES, peak=2.0, workload=MEDIUM, reference=EmulatedVectors())
    assert found["statuses"] == {200: 43, 429: 21}
    assert found["checked"] == 43
    # One of the calm ones ends within the overload, one of the overload's after it.
    assert found["goodput_per_second"] == pytest.approx(2.0)
    assert found["goodput_of_peak"] == pytest.approx(1.0)
    assert found["accepted"] == {"count": 20, "p50_ms": 500, "p99_ms": 500, "max_ms": 500}
    assert found["refused"]["p99_ms"] == pytest.approx(20)
    assert found["refused_with_retry_headers"] == 1
    assert found["health"]["count"] == 10
    assert found["health_failed"] == 1
    assert found["recovery_seconds"] == 1.0  # the slow one, due a second after the end
    assert found["tries_per_request"] == 1


def test_a_wrong_reply_ends_it() -> None:
    run = a_run()
    run.outcomes[0].body = run.outcomes[1].body
    with pytest.raises(WrongReplyError):
        figures(run, PHASES, peak=2.0, workload=MEDIUM, reference=EmulatedVectors())


@pytest.mark.parametrize("missing", list(TOLD))
def test_a_refusal_says_when_to_come_back_in_every_way(missing: str) -> None:
    assert told_to_retry(TOLD)
    assert not told_to_retry({name: value for name, value in TOLD.items() if name != missing})


def test_recovery_counts_until_the_last_that_was_refused_or_slow() -> None:
    assert recovery_seconds([accepted(AFTER, 0, 20)], end=20, slowest=1) == 0
    assert recovery_seconds([refused(23), accepted(AFTER, 0, 24)], end=20, slowest=1) == 3


def test_memory_growth_is_that_within_the_moments() -> None:
    watch = MemoryWatch({}, [0, 60, 120, 180], {"gateway": [10, 50, 52, 99]})
    assert watch.growth(60, 120) == {"gateway": {"first_mb": 50, "last_mb": 52, "mb_per_minute": pytest.approx(2)}}


def test_memory_is_sampled_while_watched() -> None:
    watch = MemoryWatch({"self": [psutil.Process().pid]}, interval=0.01)
    with watch.watching():
        while len(watch.moments) < 3:
            pass
    assert len(watch.megabytes["self"]) == len(watch.moments) >= 3
    assert min(watch.megabytes["self"]) > 1


TOKENS_PER_SECOND = 1800
INPUTS_PER_SECOND = 50  # of 36 tokens


@pytest.mark.cluster
def test_an_overloaded_service_does_its_full_work_and_refuses_the_rest(tmp_path: Path) -> None:
    settings = {
        "num_cpus": 0.1,
        "device.tokens_per_second": TOKENS_PER_SECOND,
        "dispatch.chunk_tokens": 256,
        "batch.max_tokens": 256,
        "admission.max_wait_seconds": 0.5,
    }
    phases = Phases(INPUTS_PER_SECOND / 2, 8 * INPUTS_PER_SECOND, before=2, overload=6, after=5)
    with emulated(tmp_path / "up.log", settings) as service, ThreadPoolExecutor(1) as thread:
        plan = OpenPlan(service.url, DEMO_MODEL_ID, phases.streams(MEDIUM, 0))
        run = thread.submit(drive_open, plan).result(timeout=120)
    # Every accepted reply is compared in there.
    found = figures(run, phases, INPUTS_PER_SECOND, MEDIUM, EmulatedVectors())
    assert set(found["statuses"]) == {200, 429}
    assert found["refused"]["count"] > found["accepted"]["count"] > 0
    assert found["refused_with_retry_headers"] == 1
    assert found["goodput_of_peak"] > 0.6
    # Nobody who was admitted waited for much more than the bound and the batches under way.
    assert found["accepted"]["p99_ms"] < 1e3 * 8 * 0.5
    assert found["refused"]["p50_ms"] < found["accepted"]["p50_ms"]
    assert found["health_failed"] == 0
    last = [outcome for outcome in run.of(AFTER) if outcome.due > phases.stop + phases.after / 2]
    assert last
    assert {outcome.status for outcome in last} == {200}
    assert np.median([outcome.seconds for outcome in last]) < np.median(
        [outcome.seconds for outcome in run.of(OVERLOAD) if outcome.status == 200]
    )
