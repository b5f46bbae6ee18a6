"""The measured rate of an engine."""

from __future__ import annotations

import pytest

from serve_app.engine.rate import TokenRate


def test_it_is_tokens_over_busy_seconds() -> None:
    rate = TokenRate()
    assert (rate.value, rate.total) == (0, 0)
    for _ in range(3):
        rate.add(100, 0.5)
    assert rate.value == pytest.approx(200)
    assert rate.total == 300


def test_equal_batches_of_unequal_speed_count_by_their_time() -> None:
    rate = TokenRate()
    rate.add(1000, 0.001)
    rate.add(1000, 0.002)
    assert rate.value == pytest.approx(2000 / 0.003, rel=0.001)


def test_it_tells_how_fast_full_batches_go_soon_after_small_ones() -> None:
    # A backlog is worked off in full batches; 5 s of single queries say nothing of those.
    rate = TokenRate()
    for _ in range(500):
        rate.add(30, 0.01)
    assert rate.value == pytest.approx(3000)
    for _ in range(3):
        rate.add(10_000, 0.1)
    assert rate.value == pytest.approx(100_000, rel=0.05)


def test_it_follows_a_change_of_speed() -> None:
    rate = TokenRate()
    for _ in range(100):
        rate.add(1000, 0.01)
    for _ in range(60):
        rate.add(1000, 1.0)
    assert rate.value == pytest.approx(1000, rel=0.2)
