"""What a gateway's dispatcher has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Plain numbers that only grow.

    `chunks_sent` and `inputs_sent` count everything that left, what is sent again included: `retries` are inputs sent again after
    their replica was lost or refused them, `duplicates` beside a copy with a silent replica. `cancelled` are inputs given up
    before they had an answer, `deaths` chunks whose replica died with them, `refused` inputs refused as the cause of that.
    """

    chunks_sent: int = 0
    inputs_sent: int = 0
    retries: int = 0
    duplicates: int = 0
    deaths: int = 0
    refused: int = 0
    cancelled: int = 0
