"""When a replica is silent: decisions over plain numbers."""

from __future__ import annotations

import pytest

from serve_app.cluster.silence import SilencePolicy, Verdict, ping_delay, probation

POLICY = SilencePolicy(seconds=1.0, multiple=4.0)


@pytest.mark.parametrize(
    ("age", "quiet", "asked", "expected", "verdict"),
    [
        (0.9, 50.0, None, 9.0, Verdict.WAIT),  # it was only just given something to do
        (1.0, 1.0, None, 9.0, Verdict.ASK),
        (5.0, 0.9, None, 9.0, Verdict.WAIT),  # it replied to something else meanwhile
        (1.5, 1.5, 0.5, 9.0, Verdict.WAIT),  # asked already
        (2.0, 2.0, 1.0, 9.0, Verdict.SILENT),
        (5.0, 0.5, 1.0, 9.0, Verdict.WAIT),  # its reply to a chunk came after we had asked
        (4.9, 0.1, None, 1.0, Verdict.WAIT),
        (5.0, 0.1, None, 1.0, Verdict.OVERDUE),
        (40.9, 0.1, None, 10.0, Verdict.WAIT),
    ],
)
def test_verdicts(age: float, quiet: float, asked: float | None, expected: float, verdict: Verdict) -> None:
    assert POLICY.judge(age=age, quiet=quiet, asked=asked, expected=expected) is verdict


def test_delays_double_up_to_a_bound() -> None:
    assert [ping_delay(n) for n in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert [probation(n) for n in range(1, 7)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert ping_delay(100_000) == 5.0
    assert probation(100_000) == 60.0
