"""How much may be sent again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.budget import RetryBudget


def test_a_share_of_the_last_minute_may_be_sent_again():
    budget = RetryBudget(share=0.1)
    budget.sent(1000, 100.0)
    assert budget.allows(100, 100.5)
    budget.spend(60, 100.5)
    assert not budget.allows(41, 101.0)
    assert budget.allows(40, 159.9)
    assert not budget.allows(1, 161.0), "what was sent a minute ago counts no more"


def test_without_traffic_the_floor_is_left_and_comes_back_in_ten_seconds():
    budget = RetryBudget(share=0.1, floor=100)
    assert budget.allows(60, 0.0)
    budget.spend(60, 0.0)
    assert not budget.allows(60, 0.0)
    assert not budget.allows(60, 1.9)
    assert budget.allows(60, 2.0)
    budget.spend(60, 2.0)
    assert not budget.allows(100, 11.9)
    assert budget.allows(100, 12.0)


def test_what_is_larger_than_the_floor_goes_once_nothing_else_is_owed():
    budget = RetryBudget(share=0.0, floor=100)
    budget.spend(50, 0.0)
    assert not budget.allows(1000, 4.9)
    assert budget.allows(1000, 5.0)
    budget.spend(1000, 5.0)
    assert not budget.allows(1, 94.0)
    assert budget.allows(1, 96.0)


def test_a_budget_of_nothing_allows_nothing():
    budget = RetryBudget(share=0.0, floor=0)
    budget.sent(1000, 1.0)
    assert not budget.allows(1, 1000.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400), st.floats(0.0, 20.0)), max_size=60))
def test_in_no_minute_is_more_sent_again_than_the_share_and_the_floor(steps: list[tuple[bool, int, float]]):
    budget, now = RetryBudget(share=0.1, floor=400), 0.0
    first: list[tuple[float, int]] = []
    again: list[tuple[float, int]] = []
    for is_new, tokens, pause in steps:
        now += pause
        if is_new:
            budget.sent(tokens, now)
            first.append((now, tokens))
        elif budget.allows(tokens, now):
            budget.spend(tokens, now)
            again.append((now, tokens))
        # A second of slack on either side: the window goes by whole seconds, and what was spent when the share was larger stays.
        recent = sum(tokens for at, tokens in again if at > now - 60)
        share = 0.1 * sum(tokens for at, tokens in first if at > now - 121)
        assert recent <= share + 400 + 6.1 * 400
    assert budget.allows(1, now + 1000)
