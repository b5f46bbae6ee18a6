"""The sum of what gateways say they hold back."""

from __future__ import annotations

from serve_app.cluster.backlog import GatewayBacklogs


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_latest_number_of_each_gateway_counts() -> None:
    backlogs = GatewayBacklogs(clock=Clock())
    assert backlogs.total() == 0
    backlogs.hear("one", 500)
    backlogs.hear("two", 30)
    backlogs.hear("one", 200)
    assert backlogs.total() == 230


def test_a_gateway_unheard_for_15_seconds_counts_no_more() -> None:
    clock = Clock()
    backlogs = GatewayBacklogs(clock=clock)
    backlogs.hear("gone", 500)
    clock.now += 10
    backlogs.hear("there", 30)
    assert backlogs.total() == 530
    clock.now += 5
    assert backlogs.total() == 30
    backlogs.hear("gone", 7)
    assert backlogs.total() == 37
