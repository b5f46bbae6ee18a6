"""The load generator: one round against one target, in a process of its own.

It may share the machine with what it measures, so it does little per request: requests are made before the clock starts (as many as
are thought to be needed), the parser is httptools, the loop uvloop, of every reply only the token count is read, and a few are kept
and checked when the round is over.

In open loop times count from when a request was due, not from when it left: a target that stalls, or a generator that falls behind,
shows in every request that had to wait, and none is left out (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass

import numpy as np
import uvloop

from serve_app.bench.connection import Answer, Pool
from serve_app.bench.dialects import ReplyError
from serve_app.bench.load import Load
from serve_app.bench.record import MOST_MESSAGES, NO_ANSWER, STAGE_HEADERS, TIMED_OUT, Notes, Record
from serve_app.bench.target import Target
from serve_app.bench.workloads import WORKLOADS

MOST_CONNECTIONS = 2000
MOST_PREPARED_BYTES = 128 << 20
MOST_KEPT = 10
PAUSE_SECONDS = 0.1  # of a caller whose connection was refused or lost
REFUSED_SECONDS = 1.0  # of one who got a 429 that doesn't say how long
LONGEST_PAUSE = 60.0
KEEP = frozenset(name.encode() for name in (*STAGE_HEADERS, "retry-after", "retry-after-ms"))

Request = tuple[list[bytes], int]
"""One request as the workload means it: what to send, and how many inputs that is. An API that takes fewer at once gets several."""


@dataclass(frozen=True)
class Plan:
    """One round. Texts are those of the numbers from `first` on, of which `prepare` are made beforehand."""

    target: Target
    workload: str
    load: Load
    first: int
    prepare: int
    warm_seconds: float
    seconds: float
    timeout: float = 60.0
    seed: int = 0
    salt: int = 0


def drive(plan: Plan) -> Record:
    """Run it. Blocks until every request is answered or has timed out."""
    round_ = _Round(plan)
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(round_.run())
    finally:
        gc.enable()


class _Round:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.notes = Notes()
        self.kept: list[tuple[bytes, int]] = []
        self.answered = self.taken = 0
        self.end = plan.warm_seconds + plan.seconds
        self.due = self._moments() if plan.load.open else []
        self.prepared: list[Request] = []
        size = 0
        for _ in range(len(self.due) if plan.load.open else plan.prepare):
            self.prepared.append(self._request(plan.first + len(self.prepared)))
            size += sum(map(len, self.prepared[-1][0]))
            if size > MOST_PREPARED_BYTES:
                break

    def _moments(self) -> list[float]:
        # Of the seed and the first number, so that all targets of a round are asked at the same moments.
        draw = np.random.default_rng((self.plan.seed, self.plan.first))
        count = draw.poisson(self.plan.load.rate * self.end)
        return [float(moment) for moment in np.sort(draw.uniform(0.0, self.end, count))]

    def _request(self, number: int) -> Request:
        plan, target = self.plan, self.plan.target
        content = WORKLOADS[plan.workload].content(number, plan.seed, plan.salt)
        address, headers, path = target.address, target.headers, target.dialect.path
        bodies = target.dialect.bodies(target.model, content)
        return [address.frame(body, path, headers) for body in bodies], len(content.texts)

    def _take(self) -> Request:
        number = self.taken
        self.taken += 1
        return self.prepared[number] if number < len(self.prepared) else self._request(self.plan.first + number)

    def _now(self) -> float:
        return time.perf_counter() - self.began

    async def run(self) -> Record:
        plan = self.plan
        self.pool = Pool(plan.target.address, MOST_CONNECTIONS, KEEP)
        cpu = time.process_time()
        self.began = time.perf_counter()
        if plan.load.open:
            await self._at_fixed_moments()
        else:
            await asyncio.gather(*(self._caller() for _ in range(plan.load.callers)))
        share = (time.process_time() - cpu) / max(self._now(), 1e-9)
        self.pool.close()
        record = self.notes.record(plan.seconds, plan.load.open)
        record.cpu_share = share
        for body, inputs in self.kept:
            try:
                plan.target.dialect.vectors(body, inputs)
            except ReplyError as error:
                record.wrong.append(str(error))
        record.checked = len(self.kept)
        return record

    async def _at_fixed_moments(self) -> None:
        tasks = []
        for due in self.due:
            if (ahead := due - self._now()) > 0:
                await asyncio.sleep(ahead)
            tasks.append(asyncio.create_task(self._ask(due)))
        await asyncio.gather(*tasks)

    async def _caller(self) -> None:
        while (now := self._now()) < self.end:
            pause = await self._ask(now)
            if pause >= self.end - self._now():
                return  # and doesn't sleep until the end: timers may fire a little early
            if pause:
                await asyncio.sleep(pause)

    async def _ask(self, due: float) -> float:
        """One request, written down; how long a caller should wait before the next."""
        requests, inputs = self._take()
        lag = max(0.0, self._now() - due)
        try:
            async with asyncio.timeout(self.plan.timeout):
                if len(requests) == 1:
                    answers = [await self.pool.exchange(requests[0])]
                else:
                    answers = await asyncio.gather(*map(self.pool.exchange, requests))
        except TimeoutError:
            answers, status = [], TIMED_OUT
        except OSError as error:
            answers, status = [], NO_ANSWER
            self._message(f"{type(error).__name__}: {error}")
        else:
            status = next((answer.status for answer in answers if answer.status != 200), 200)
        seconds = self._now() - due
        due -= self.plan.warm_seconds
        if status != 200:
            self.notes.add(due, seconds, lag, status, inputs, 0, {})
            return self._refused(status, answers)
        tokens = sum(self.plan.target.dialect.tokens(answer.body) for answer in answers)
        self.notes.add(due, seconds, lag, status, inputs, tokens, answers[0].headers if len(answers) == 1 else {})
        # The 1st, 2nd, 4th, 8th … are looked into later.
        self.answered += 1
        if self.answered & (self.answered - 1) == 0 and len(self.kept) < MOST_KEPT:
            most = self.plan.target.dialect.most_inputs
            self.kept.append((answers[-1].body, (inputs - 1) % most + 1))
        return 0.0

    def _refused(self, status: int, answers: list[Answer]) -> float:
        bad = next((answer for answer in answers if answer.status == status), None)
        if bad is None:
            return PAUSE_SECONDS
        # What comes with a 401 or 403 may repeat a part of the key.
        detail = "" if status in (401, 403) else f": {bad.body[:200].decode(errors='replace')}"
        self._message(f"status {status}{detail}")
        if status != 429:
            return PAUSE_SECONDS
        for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
            try:
                return min(LONGEST_PAUSE, unit * float(bad.headers[name]))
            except (KeyError, ValueError):
                continue
        return REFUSED_SECONDS

    def _message(self, text: str) -> None:
        if key := self.plan.target.key:
            text = text.replace(key, "…")
        if text in self.notes.messages or len(self.notes.messages) < MOST_MESSAGES:
            self.notes.messages[text] += 1
