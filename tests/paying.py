"""A caller that remembers what it should be billed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx

from serve_app.telemetry.ledger import Used
from tests.keyed_service import MODEL, KeyedService

NOTHING = Used()


@dataclass
class Payer:
    """One key's requests, one at a time, and what its usage should be: `acknowledged`, and as much of `doubtful` as may be."""

    name: str
    acknowledged: Used = NOTHING
    doubtful: Used = NOTHING
    under_way: Used = NOTHING
    failures: list[str] = field(default_factory=list)

    async def pay(self, keyed: KeyedService, stop: asyncio.Event) -> None:
        """Send until told to stop."""
        body = {"model": MODEL, "input": [f"of {self.name}"] * 3}
        async with keyed.client(self.name) as http:
            one = Used(1, 3, (await http.post("/v1/embeddings", json=body)).json()["usage"]["prompt_tokens"])
            self.acknowledged = one
            while not stop.is_set():
                self.under_way = one
                try:
                    reply = await http.post("/v1/embeddings", json=body)
                    reply.raise_for_status()
                    assert reply.json()["usage"]["prompt_tokens"] == one.prompt_tokens
                    self.acknowledged = add(self.acknowledged, one)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    self.doubtful = add(self.doubtful, one)
                self.under_way = NOTHING


def add(*several: Used) -> Used:
    """Their sum."""
    return Used(*map(sum, zip(*several, strict=True)))
