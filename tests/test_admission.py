"""Admission: refuses at every bound and at none else, and says when there will be room again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.admission import FLOOR_CHUNKS, SPREAD, Admission, Bounds
from serve_app.cluster.ports import Backlog
from serve_app.config import AdmissionSettings
from serve_app.errors import OverloadedError

CHUNK = 1000
BOUNDS = Bounds(max_wait_seconds=10.0, max_gateway_tokens=50_000, max_cluster_tokens=200_000)


def admission(bounds: Bounds = BOUNDS, jitter: float = 0.0) -> Admission:
    return Admission(bounds, CHUNK, jitter=lambda: jitter)


def refusal(backlog: Backlog, tokenizing: int = 0, bounds: Bounds = BOUNDS) -> float | None:
    """After how many seconds to come back; None if admitted."""
    try:
        admission(bounds).check(backlog, tokenizing)
    except OverloadedError as error:
        return error.retry_after
    return None


@pytest.mark.parametrize(
    ("backlog", "tokenizing", "wait"),
    [
        # An empty system, whatever is known of it; asleep, too.
        (Backlog(), 0, None),
        (Backlog(replicas=4), 0, None),
        (Backlog(tokens_per_second=0.001, replicas=1), 0, None),
        # This gateway's queue: half of its bound worked off, by its share of the rate.
        (Backlog(49_999, 49_999, 1e9, 1), 0, None),
        (Backlog(50_000, 50_000, 10_000, 1), 0, 2.5),
        (Backlog(50_000, 100_000, 20_000, 1), 0, 2.5),
        (Backlog(75_000, 75_000, 10_000, 1), 0, 5.0),
        # The cluster's work.
        (Backlog(0, 199_999, 1e9, 1), 0, None),
        (Backlog(0, 200_000, 100_000, 1), 0, 1.0),
        (Backlog(0, 300_000, 100_000, 1), 0, 2.0),
        # The wait at the measured rate.
        (Backlog(0, 9_999, 1_000, 1), 0, None),
        (Backlog(0, 10_000, 1_000, 1), 0, 5.0),
        (Backlog(0, 90_000, 1_000, 1), 0, 85.0),
        # Several bounds at once: the longest wait counts.
        (Backlog(50_000, 200_000, 10_000, 1), 0, 15.0),
        (Backlog(100_000, 100_000, 5_000, 1), 0, 15.0),
        # Unknown rate: only the bounds on tokens, and a guess at the wait.
        (Backlog(0, 199_999, 0.0, 1), 0, None),
        (Backlog(0, 200_000, 0.0, 1), 0, 1.0),
        (Backlog(50_000, 50_000, 0.0, 1), 0, 1.0),
        # Asleep or gone: requests wait for the first replica, up to the bounds on tokens.
        (Backlog(49_999, 49_999, 0.0, 0), 0, None),
        (Backlog(50_000, 50_000, 0.0, 0), 0, 1.0),
        # A slow device still gets full chunks at hand; more of them for more devices.
        (Backlog(0, 3_999, 1.0, 1), 0, None),
        (Backlog(0, 4_000, 1.0, 1), 0, 3_995.0),
        (Backlog(0, 7_999, 2.0, 2), 0, None),
        (Backlog(0, 8_000, 2.0, 2), 0, 3_995.0),
        (Backlog(0, 3_999, 1.0, 0), 0, None),
        (Backlog(0, 4_000, 1.0, 0), 0, 3_995.0),
        # The floor lifts no bound on tokens.
        (Backlog(50_000, 50_000, 1.0, 100), 0, 25_000.0),
        (Backlog(0, 200_000, 1.0, 100), 0, 100_000.0),
        # What is being tokenized counts as queued.
        (Backlog(30_000, 30_000, 1e9, 1), 19_999, None),
        (Backlog(30_000, 30_000, 10_000, 1), 20_000, 2.5),
        (Backlog(0, 190_000, 190_000, 1), 10_000, 100_000 / 190_000),
        (Backlog(0, 9_000, 1_000, 1), 1_000, 5.0),
    ],
)
def test_bounds(backlog: Backlog, tokenizing: int, wait: float | None) -> None:
    assert refusal(backlog, tokenizing) == (None if wait is None else pytest.approx(wait))


def test_what_is_refused_says_when() -> None:
    asked = admission(jitter=1.0)
    asked.check(Backlog(0, 0, 1_000, 1))
    with pytest.raises(OverloadedError) as caught:
        asked.check(Backlog(0, 20_000, 1_000, 1))
    error = caught.value
    assert (error.status, error.type, error.param, error.code) == (429, "tokens", None, "server_is_overloaded")
    # Later than the 15 s it takes to work off what is over half of the bound, so that not all come back at once.
    assert error.retry_after == pytest.approx(15.0 * (1 + SPREAD))
    assert error.message == "The service is overloaded. Try again in 18.0 s."


def test_bounds_can_be_set_while_serving() -> None:
    asked = admission()
    asked.check(Backlog(0, 9_000, 1_000, 1))
    asked.bounds = Bounds(5.0, 50_000, 200_000)
    with pytest.raises(OverloadedError):
        asked.check(Backlog(0, 9_000, 1_000, 1))


def test_the_settings_have_the_bounds_and_no_others() -> None:
    assert Bounds(**AdmissionSettings().model_dump()).max_wait_seconds == 10.0


bounds = st.builds(Bounds, st.floats(1e-3, 1e3), st.integers(1, 10**9), st.integers(1, 10**9))
rates = st.just(0.0) | st.floats(1e-3, 1e9)
tokens = st.integers(0, 10**10)


@st.composite
def backlogs(draw: st.DrawFn) -> Backlog:
    queued = draw(tokens)
    return Backlog(queued, queued + draw(tokens), draw(rates), draw(st.integers(0, 1000)))


@given(bounds, backlogs(), tokens)
def test_never_admits_at_a_bound_and_refuses_nothing_else(bounds: Bounds, backlog: Backlog, tokenizing: int) -> None:
    queued, cluster = backlog.queued_tokens + tokenizing, backlog.cluster_tokens + tokenizing
    full = queued >= bounds.max_gateway_tokens or cluster >= bounds.max_cluster_tokens
    floor = FLOOR_CHUNKS * CHUNK * max(1, backlog.replicas)
    rate = backlog.tokens_per_second
    late = rate > 0 and cluster / rate >= bounds.max_wait_seconds and cluster >= floor
    wait = refusal(backlog, tokenizing, bounds)
    assert (wait is not None) == (full or late)
    assert wait is None or wait > 0


@given(bounds, rates, st.integers(0, 1000))
def test_an_empty_system_always_admits(bounds: Bounds, rate: float, replicas: int) -> None:
    assert refusal(Backlog(0, 0, rate, replicas), 0, bounds) is None


@given(bounds, backlogs())
def test_who_comes_back_when_told_is_admitted(bounds: Bounds, backlog: Backlog) -> None:
    """If the cluster works at its rate, shared by the queues, and nothing new arrives."""
    wait, rate = refusal(backlog, 0, bounds), backlog.tokens_per_second
    if wait is None or not rate:
        return
    share = backlog.queued_tokens / backlog.cluster_tokens
    left = max(0.0, backlog.cluster_tokens - rate * wait)
    later = Backlog(int(left * share), int(left), rate, backlog.replicas)
    assert refusal(later, 0, bounds) is None
