"""Bad requests over real connections: one thread's share of them, and what became of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from loadtest.fuzz_inputs import BadInput, Generator
from loadtest.fuzz_judge import complaint
from loadtest.http_client import Address, Connection

HANG_SECONDS = 30.0
COMPLAINTS = 20
"""How many are kept in words."""


@dataclass
class Heard:
    """What was heard. `seconds` are those of each refusal, from the first byte sent to the last received; `hangs` are connections
    that were silent for `HANG_SECONDS`, `cut` those closed without an answer."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    complaints: list[dict[str, object]] = field(default_factory=list)
    wrong: int = 0
    hangs: int = 0
    cut: int = 0

    def add(self, other: Heard) -> None:
        """Take in what another has heard."""
        self.statuses += other.statuses
        self.seconds += other.seconds
        self.complaints += other.complaints
        self.wrong += other.wrong
        self.hangs += other.hangs
        self.cut += other.cut

    def complain(self, sent: BadInput, status: int, why: str, reply: bytes) -> None:
        """Note what should not have been."""
        self.wrong += 1
        if len(self.complaints) < COMPLAINTS:
            head = {name: value.decode("latin-1")[:100] for name, value in sent.headers}
            shown = {"sent": sent.body[:300].decode("latin-1"), "said": reply[:300].decode("latin-1")}
            self.complaints.append({"why": why, "path": sent.path, "status": status, "headers": head, **shown})


def send_bad(address: Address, inputs: Generator, refusals: int, secret: bytes | None) -> Heard:
    """Send until so many have been refused, one after another, on a connection that is kept."""
    heard = Heard()
    connection: Connection | None = None
    for one in inputs:
        if len(heard.seconds) >= refusals or heard.hangs + heard.cut > COMPLAINTS:
            break
        sent = one if secret is None else one.with_key(secret)
        started = time.perf_counter()
        try:
            connection = connection or Connection(address, HANG_SECONDS)
            status, body = connection.exchange(frame(address, sent))
        except (OSError, EOFError) as error:
            if isinstance(error, TimeoutError):
                heard.hangs += 1
            else:
                heard.cut += 1
            heard.complain(sent, 0, type(error).__name__, b"")
            if connection is not None:
                connection.close()
            connection = None
            continue
        taken = time.perf_counter() - started
        heard.statuses[status] += 1
        if status != 200:
            heard.seconds.append(taken)
        if (why := complaint(sent, status, body)) is not None:
            heard.complain(sent, status, why, body)
    if connection is not None:
        connection.close()
    return heard


def frame(address: Address, sent: BadInput) -> bytes:
    """The request as it goes over the wire."""
    given = dict(sent.headers)
    headers = {"content-type": b"application/json", **given, "content-length": b"%d" % len(sent.body)}
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers.items())
    return f"POST {sent.path} HTTP/1.1\r\nhost: {address.authority}\r\n".encode() + lines + b"\r\n" + sent.body
