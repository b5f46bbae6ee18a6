"""When a replica is silent, and when it is trusted again: decisions only, no clock and no network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

# What a chunk may take where no replica has measured its rate yet.
UNKNOWN_SECONDS = 10.0

FIRST_PING_SECONDS = 0.5
LAST_PING_SECONDS = 5.0
FIRST_PROBATION_SECONDS = 5.0
LAST_PROBATION_SECONDS = 60.0


class Verdict(Enum):
    """What to do about a replica that has had a chunk for a while."""

    WAIT = auto()
    ASK = auto()
    SILENT = auto()
    OVERDUE = auto()


@dataclass(frozen=True, slots=True)
class SilencePolicy:
    """A replica is asked after `seconds` without a sign of life, and silent after as many without an answer; overdue if it
    answers, but takes `seconds` plus `multiple` times what is expected for a chunk."""

    seconds: float = 1.0
    multiple: float = 4.0

    def judge(self, *, age: float, quiet: float, asked: float | None, expected: float) -> Verdict:
        """Of a chunk sent `age` seconds ago, at a replica that last answered `quiet` seconds ago, was asked for a sign of life
        `asked` seconds ago (None: not), and should have taken `expected` seconds."""
        if asked is not None and asked >= self.seconds and quiet >= self.seconds:
            return Verdict.SILENT
        if age >= self.seconds + self.multiple * expected:
            return Verdict.OVERDUE
        if asked is None and age >= self.seconds and quiet >= self.seconds:
            return Verdict.ASK
        return Verdict.WAIT


def ping_delay(failures: int) -> float:
    """Seconds until a lost or silent replica is asked again after so many unanswered pings."""
    return min(LAST_PING_SECONDS, FIRST_PING_SECONDS * 2.0 ** min(failures, 16))


def probation(times: int) -> float:
    """Seconds that a replica overdue for the n-th time in a row, from 1, stays out though it answers pings."""
    return min(LAST_PROBATION_SECONDS, FIRST_PROBATION_SECONDS * 2.0 ** min(times - 1, 16))
