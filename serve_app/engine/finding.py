"""What a check of a model found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, whether it `passed` (None: it couldn't be made), and in a sentence what was found, and what to do if it's
    wrong. `said` names no paths of the machine: services show it to clients."""

    check: str
    passed: bool | None
    said: str


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Those that didn't pass."""
    return [finding for finding in findings if finding.passed is False]
