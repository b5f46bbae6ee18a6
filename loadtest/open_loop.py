"""Open-loop load: requests leave at moments fixed beforehand, whatever becomes of those before them, as from many independent callers.

Times count from when a request was due, not from when it left, so a generator that falls behind shows in the latencies instead of
hiding a slow service (`Outcome.lag` says how far behind it was). A request that finds no idle connection opens another, up to
`OpenPlan.connections`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import uvloop

from loadtest.http_client import Address
from loadtest.workload import Workload, body
from serve_app.bench.connection import Pool

GRACE_SECONDS = 60.0
RETRY_HEADERS = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})
NO_ANSWER = 0
"""The status of a request whose connection was lost or which was still open `GRACE_SECONDS` after the end."""

RetryDelay = Callable[[int, Mapping[str, str], int], float | None]
"""Of a status, headers and the number of tries so far: seconds until the next try, None for no other."""


@dataclass(frozen=True)
class Stream:
    """Requests of one kind, at random moments (Poisson) averaging `rate` a second from `start` to `stop`, in seconds of the run.

    Each carries the workload's text of its number, counting up from `first`; without a workload it is a GET of `path`.
    """

    name: str
    rate: float
    start: float
    stop: float
    workload: Workload | None = None
    first: int = 0
    path: str = "/health"
    retrying: bool = False

    def moments(self, random: np.random.Generator) -> list[float]:
        """When its requests are due."""
        count = random.poisson(self.rate * (self.stop - self.start))
        return [float(moment) for moment in np.sort(random.uniform(self.start, self.stop, count))]


@dataclass(frozen=True)
class OpenPlan:
    """A run of one or more streams at once. `retry_delay` decides for the streams that retry, by what `keep_headers` names, in lower
    case."""

    url: str
    model: str
    streams: Sequence[Stream]
    seed: int = 0
    connections: int = 4000
    retry_delay: RetryDelay | None = None
    keep_headers: frozenset[bytes] = RETRY_HEADERS


@dataclass(slots=True)
class Outcome:
    """What became of one request: its last answer. `due` counts from the run's start; `seconds` from then to the answer's end;
    `first_seconds` to that of the first try; `lag` is how late it left. `headers` are those in `OpenPlan.keep_headers`; only a
    200's body is kept."""

    stream: str
    number: int
    due: float
    seconds: float = 0.0
    first_seconds: float = 0.0
    lag: float = 0.0
    status: int = NO_ANSWER
    tries: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def ended(self) -> float:
        """When its last answer was complete, in seconds of the run."""
        return self.due + self.seconds


@dataclass(frozen=True)
class OpenRun:
    """Outcomes in the order in which requests were due. `began` is the run's start in seconds of `time.perf_counter`."""

    began: float
    outcomes: list[Outcome]

    def of(self, stream: str) -> list[Outcome]:
        """One stream's."""
        return [outcome for outcome in self.outcomes if outcome.stream == stream]


def drive_open(plan: OpenPlan) -> OpenRun:
    """Run the plan. Blocks until every request is answered or given up."""
    address = Address.of(plan.url)
    random = np.random.default_rng(plan.seed)
    requests: list[tuple[Outcome, bytes, bool]] = []
    for stream in plan.streams:
        for i, due in enumerate(stream.moments(random)):
            number = stream.first + i
            if stream.workload is None:
                request = address.frame_get(stream.path)
            else:
                request = address.frame(body(plan.model, [stream.workload.text(number)]))
            requests.append((Outcome(stream.name, number, due), request, stream.retrying))
    requests.sort(key=lambda entry: entry[0].due)
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run = _Run(plan, address)
            runner.run(run.all(requests))
    finally:
        gc.enable()
    return OpenRun(run.began, [outcome for outcome, _, _ in requests])


class _Run:
    """The pool of connections, and the clock."""

    def __init__(self, plan: OpenPlan, address: Address) -> None:
        self.plan = plan
        self.address = address
        self.pool = Pool(address, plan.connections, plan.keep_headers)
        self.began = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.began

    async def all(self, requests: list[tuple[Outcome, bytes, bool]]) -> None:
        self.began = time.perf_counter()
        tasks = set()
        for outcome, request, retrying in requests:
            if (ahead := outcome.due - self.now()) > 0:
                await asyncio.sleep(ahead)
            tasks.add(asyncio.create_task(self.one(outcome, request, retrying)))
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.pool.close()

    async def one(self, outcome: Outcome, request: bytes, retrying: bool) -> None:
        while True:
            await self.attempt(outcome, request)
            outcome.seconds = self.now() - outcome.due
            if outcome.tries == 1:
                outcome.first_seconds = outcome.seconds
            if not retrying or self.plan.retry_delay is None:
                return
            delay = self.plan.retry_delay(outcome.status, outcome.headers, outcome.tries)
            if delay is None:
                return
            await asyncio.sleep(delay)

    async def attempt(self, outcome: Outcome, request: bytes) -> None:
        outcome.tries += 1
        outcome.status, outcome.headers, outcome.body = NO_ANSWER, {}, b""
        try:
            connection = await self.pool.take()
        except OSError:
            return
        if outcome.tries == 1:
            outcome.lag = max(0.0, self.now() - outcome.due)  # the loop's timers count whole milliseconds
        answered = False
        try:
            answer = await connection.exchange(request)
            answered = True
        except OSError:
            return
        finally:
            self.pool.give_back(connection, answered)
        outcome.status, outcome.headers = answer.status, answer.headers
        outcome.body = answer.body if answer.status == 200 else b""
