"""The last minute of a limit: no 60 seconds have more, and what a refusal says of the wait is true."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.key import Ask
from serve_app.access.limiter import ShareLimiter
from serve_app.access.window import Window


def most_within_a_minute(given_: list[tuple[float, int]]) -> int:
    """The largest sum within any 60 seconds."""
    most = total = 0
    recent: deque[tuple[float, int]] = deque()
    for at, amount in given_:
        recent.append((at, amount))
        total += amount
        while recent[0][0] <= at - 60:
            total -= recent.popleft()[1]
        most = max(most, total)
    return most


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), max_size=80), st.floats(0, 100))
def test_no_60_seconds_have_more_than_the_limit(steps: list[tuple[float, int]], start: float) -> None:
    window, now = Window(), start
    let_through = []
    for step, amount in steps:
        now += step
        taken = window.take(now, 100, amount)
        if taken.wait == 0:
            let_through.append((now, amount))
        else:
            # It says when there is room, to the moment, if nobody else comes.
            assert Window.take(copy(window), now + taken.wait, 100, amount).wait == 0
    assert most_within_a_minute(let_through) <= 100


def copy(window: Window) -> Window:
    other = Window()
    other._seconds = deque([*slot] for slot in window._seconds)
    other.used = window.used
    return other


def test_who_asks_all_the_time_gets_the_limit_every_61_seconds() -> None:
    window = Window()
    got = sum(window.take(now / 10, 100, 1).wait == 0 for now in range(6100))
    assert got == 1000


def test_what_a_refusal_says() -> None:
    window = Window()
    assert window.take(10.5, 100, 60).wait == 0
    assert window.take(20.25, 100, 40).wait == 0
    refused = window.take(30.0, 100, 50)
    assert (refused.used, refused.wait, refused.reset) == (100, 41.0, 51.0)
    assert window.take(30.0, 100, 70).wait == 51.0
    assert window.take(70.99, 100, 50).wait > 0
    assert window.take(71.0, 100, 50).wait == 0


def test_more_than_the_limit_never_fits() -> None:
    assert Window().take(0.0, 100, 101).wait == 60


def test_looking_costs_nothing() -> None:
    window = Window()
    assert window.take(5.0, 10, 0) == window.take(5.0, 10, 0)
    assert window.take(5.0, 10, 0).reset == 0
    assert window.take(5.0, 10, 10).used == 10


async def test_a_share_is_the_limit_over_the_gateways_and_at_least_one() -> None:
    assert [ShareLimiter(4).most(limit) for limit in (1, 3, 4, 7, 100)] == [1, 1, 1, 1, 25]
    gateways = [ShareLimiter(4, lambda: 0.0) for _ in range(4)]
    got = 0
    for gateway in gateways:
        for _ in range(100):
            [taken] = await gateway.take([Ask("a", "requests", 102, 1)])
            got += taken.wait == 0
    assert got == 100
