"""Looks after the replicas on one timer: asks those that give no sign of life, and those that are out until they answer.

While a gateway holds inputs back it also speaks to some replica every second, so that its backlog is known in the cluster, and
while there is no replica at all it has one call wait for one, which is what makes a sleeping pool start.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.cluster.flights import Flights
from serve_app.cluster.ports import Transport
from serve_app.cluster.replicas import ReplicaSet
from serve_app.cluster.silence import UNKNOWN_SECONDS, SilencePolicy, Verdict, ping_delay, probation
from serve_app.cluster.tasks import TaskGroup
from serve_app.errors import UnavailableError
from serve_app.types import Ping, ReplicaStatus

logger = logging.getLogger(__name__)

TICKS_PER_SILENCE = 4
LONGEST_INTERVAL_SECONDS = 0.25
BACKLOG_SECONDS = 0.75
PING_SECONDS = 5.0
WAKE_SECONDS = 60.0


@dataclass(slots=True)
class _Care:
    """What is known of a replica that was asked or is out: when it was `asked`, if the answer is still awaited, how many pings it
    failed to answer, when the next is due, and until when it is distrusted even if it answers. Seconds of the clock."""

    asked: float | None = None
    failures: int = 0
    next_ping: float = -math.inf
    distrusted_until: float = -math.inf
    overdue: int = 0


class Watch:
    """Marks replicas of `view` silent or back, and tells: `on_silent` gets every replica that is silent, to have its chunks sent
    elsewhere, `on_back` every one that is back, before it gets new ones. `on_look` is called at every look, `on_failed` when Serve
    says that it won't start replicas any more.

    `ping` makes the message to send, with what this gateway holds back now. `on_status` gets what replicas answer to it.
    `policy` may be replaced at any time.
    """

    def __init__(
        self,
        view: ReplicaSet,
        transport: Transport,
        flights: Flights,
        *,
        ping: Callable[[], Ping],
        on_status: Callable[[ReplicaStatus], None],
        on_silent: Callable[[str], None],
        on_back: Callable[[str], None],
        on_look: Callable[[], None],
        on_failed: Callable[[UnavailableError], None] = lambda _: None,
        clock: Callable[[], float],
    ) -> None:
        self.policy = SilencePolicy()
        self._view = view
        self._transport = transport
        self._flights = flights
        self._ping = ping
        self._on_status = on_status
        self._on_silent = on_silent
        self._on_back = on_back
        self._on_look = on_look
        self._on_failed = on_failed
        self._clock = clock
        self._care: dict[str, _Care] = {}
        self._tasks = TaskGroup()
        self._waking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expected_at = 0.0
        self._deaf_until = -math.inf
        self._spoke_at = -math.inf
        self._turn = 0
        self._closed = False

    def start(self) -> None:
        """Look from now on, until nothing is left to look after."""
        if self._timer is None and not self._closed:
            self._schedule()

    def lose(self, replica: str) -> None:
        """A replica was lost, or refused a chunk: out of the rotation until it answers."""
        self._view.mark_unavailable(replica)
        self._care_for(replica).next_ping = self._clock() + ping_delay(0)
        self.start()

    def replied(self, replica: str) -> None:
        """A replica answered a chunk: whatever was thought of it, it works."""
        if self._care:
            self._care.pop(replica, None)
        if self._view.is_down(replica):
            self._back(replica)

    async def close(self) -> None:
        """Look no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._tasks.cancel()

    @property
    def _interval(self) -> float:
        return min(LONGEST_INTERVAL_SECONDS, self.policy.seconds / TICKS_PER_SILENCE)

    def _schedule(self) -> None:
        interval = self._interval
        self._expected_at = self._clock() + interval
        self._timer = asyncio.get_running_loop().call_later(interval, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock()
        if now - self._expected_at > self._interval:
            # It was this loop that didn't listen: what was said meanwhile is only read now.
            self._deaf_until = now
        self._judge(now)
        down = self._view.down
        for replica in down:
            care = self._care_for(replica)
            if care.asked is None and care.next_ping <= now:
                self._ask(replica, now)
        if not down and self._care:
            known = self._view.listed
            self._care = {name: care for name, care in self._care.items() if name in known or care.asked is not None}
        holds_back = self._speak(now)
        if self._flights or down or holds_back:
            self._schedule()
        self._on_look()

    def _judge(self, now: float) -> None:
        """Find the silent among the replicas that have had a chunk for a while."""
        silent: dict[str, bool] = {}
        for chunk in self._flights.sent_before(now - self.policy.seconds):
            if chunk.overtaken or chunk.replica in silent:
                continue
            verdict = self._verdict(chunk.replica, now - max(chunk.sent_at, chunk.since, self._deaf_until), now)
            if verdict is Verdict.ASK:
                self._ask(chunk.replica, now)
            elif verdict is not Verdict.WAIT:
                silent[chunk.replica] = verdict is Verdict.OVERDUE
        for replica, overdue in silent.items():
            # Late, but alive: while there's nobody else, sending it less would not make it faster.
            if not overdue or self._view.available != [replica]:
                self._silence(replica, now, overdue=overdue)

    def _verdict(self, replica: str, age: float, now: float) -> Verdict:
        expected = self._view.expected_seconds(replica)
        care = self._care.get(replica)
        asked = care.asked if care is not None else None
        if self._view.is_listed(replica) and not self._view.is_available(replica):
            # Out for another reason, and this chunk's call still hangs.
            return Verdict.SILENT if age >= self.policy.seconds else Verdict.WAIT
        verdict = self.policy.judge(
            # A replica that computes for us is not late: in its queue, others may have gone first.
            age=min(age, now - self._view.computed_at(replica)),
            quiet=now - max(self._view.replied_at(replica), self._deaf_until),
            asked=None if asked is None else now - max(asked, self._deaf_until),
            expected=UNKNOWN_SECONDS if expected is None else expected,
        )
        if self._view.is_available(replica):
            return verdict
        # Serve doesn't name it any more, so it can't be asked; it may be finishing what it has.
        return verdict if verdict is Verdict.OVERDUE else Verdict.WAIT

    def _silence(self, replica: str, now: float, *, overdue: bool) -> None:
        logger.warning("Replica %s is %s; its work is sent elsewhere", replica, "overdue" if overdue else "silent")
        care = self._care_for(replica)
        if overdue:
            care.overdue += 1
            care.distrusted_until = now + probation(care.overdue)
        self._view.mark_unavailable(replica)
        self._on_silent(replica)

    def _back(self, replica: str) -> None:
        logger.info("Replica %s is back", replica)
        self._on_back(replica)
        self._view.mark_available(replica)

    def _ask(self, replica: str, now: float) -> None:
        self._care_for(replica).asked = now
        self._tasks.spawn(self._ask_and_wait(replica))

    async def _ask_and_wait(self, replica: str) -> None:
        ping = self._ping()
        status: ReplicaStatus | None = None
        try:
            async with asyncio.timeout(max(PING_SECONDS, 2 * self.policy.seconds)):
                status = await self._transport.ping(replica, ping)
        except Exception as error:
            logger.debug("Replica %s didn't answer a ping: %s", replica, type(error).__name__)
        care = self._care.get(replica)
        if care is None:
            return  # it has answered a chunk meanwhile
        care.asked = None
        now = self._clock()
        if status is None or status.replica != replica:
            care.failures += 1
            care.next_ping = now + ping_delay(care.failures)
            if self._view.is_listed(replica):
                self._view.mark_unavailable(replica)
            self.start()
            return
        care.failures = 0
        care.next_ping = now + ping_delay(0)
        self._view.hear(replica, status)
        self._on_status(status)
        if replica in self._view.down and (now >= care.distrusted_until or not status.outstanding_tokens):
            self._back(replica)

    def _speak(self, now: float) -> bool:
        """Let the cluster hear of this gateway's backlog; whether there is one."""
        if not self._ping().gateway_queued_tokens:
            return False
        available = self._view.available
        if not self._view.listed:
            if self._waking is None or self._waking.done():
                self._waking = self._tasks.spawn(self._wake())
        elif available and now - self._spoke_at >= BACKLOG_SECONDS:
            self._spoke_at = now
            self._turn += 1
            replica = available[self._turn % len(available)]
            if self._care_for(replica).asked is None:
                self._ask(replica, now)
        return True

    async def _wake(self) -> None:
        try:
            async with asyncio.timeout(WAKE_SECONDS):
                await self._transport.wake(self._ping())
        except UnavailableError as error:
            if not self._view.listed:
                self._on_failed(error)
        except Exception as error:
            logger.debug("No replica woke up: %s", type(error).__name__)

    def _care_for(self, replica: str) -> _Care:
        return self._care.setdefault(replica, _Care())
