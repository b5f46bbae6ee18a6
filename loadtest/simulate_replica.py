"""A simulated replica: the service's own queue, token rate and backlog memory around a device that only takes time."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from random import Random

from loadtest.simulate_costs import Device
from loadtest.simulate_events import Events
from loadtest.simulate_work import Bundle, BundlePolicy, Chunk, within
from serve_app.cluster.autoscaling import ReplicaLoad
from serve_app.cluster.backlog import GatewayBacklogs
from serve_app.engine.queue import InputQueue
from serve_app.engine.rate import TokenRate
from serve_app.types import ReplicaStatus


class Replica:
    """Batches as `engine.batcher` does: whatever waits when the device is free, up to the device's bounds.

    `reply` takes a chunk and the status, once all of the chunk's bundles are computed.
    """

    def __init__(
        self,
        events: Events,
        name: str,
        device: Device,
        reply: Callable[[Chunk, ReplicaStatus], None],
        random: Random,
        waits: array[float],
    ) -> None:
        self.name = name
        self.busy_seconds = 0.0
        self.chunks = 0  # here now
        self.running_tokens = 0
        self.backlogs = GatewayBacklogs(clock=events.clock)
        self.queue: InputQueue[Bundle] = InputQueue(BundlePolicy())
        self.rate = TokenRate()
        self._events = events
        self._device = device
        self._reply = reply
        self._random = random
        self._waits = waits
        self._seen = (0.0, 0)  # time and work of the last report

    @property
    def outstanding_tokens(self) -> int:
        """Tokens waiting and running."""
        return self.queue.tokens + self.running_tokens

    def receive(self, chunk: Chunk) -> None:
        """A chunk arrives."""
        now = self._events.now
        chunk.received = now
        self.chunks += 1
        self.backlogs.hear(str(chunk.gateway), chunk.queued_tokens)
        for bundle in chunk.bundles:
            self.queue.push(bundle.again(now))
        if not self.running_tokens:
            self._start()

    def status(self, gateway: int) -> ReplicaStatus:
        """What it says of itself to a gateway."""
        return ReplicaStatus(self.name, self.outstanding_tokens, self.rate.value, self.backlogs.total(str(gateway)))

    def load(self) -> ReplicaLoad:
        """What it reports to autoscaling, once an interval."""
        before, worked = self._seen
        work = self.rate.total + self.outstanding_tokens
        self._seen = (self._events.now, work)
        elapsed = self._events.now - before
        arrived = (work - worked) / elapsed if elapsed else 0.0
        return ReplicaLoad(self.running_tokens, self.queue.tokens, self.rate.value, arrived)

    def _start(self) -> None:
        device, queue, now = self._device, self.queue, self._events.now
        bundles = queue.take(device.max_tokens, device.max_inputs, now)
        if not bundles:
            return
        fit = within(bundles, device.max_inputs)
        queue.requeue([bundle.again(bundle.arrival) for bundle in bundles[fit:]])
        bundles = bundles[:fit]
        self.running_tokens = sum([bundle.tokens for bundle in bundles])
        seconds = device.seconds(self.running_tokens, sum([bundle.inputs for bundle in bundles]))
        if device.jitter:
            spread = math.sqrt(math.log1p(device.jitter**2))
            seconds *= self._random.lognormvariate(-(spread**2) / 2, spread)
        self.busy_seconds += seconds
        for bundle in bundles:
            self._waits.append(now - bundle.arrival)
        self._events.at(now + seconds, self._computed, bundles, seconds)

    def _computed(self, bundles: list[Bundle], seconds: float) -> None:
        self.rate.add(self.running_tokens, seconds)
        self.running_tokens = 0
        self._start()
        for bundle in bundles:
            chunk = bundle.chunk
            assert chunk is not None
            chunk.left -= 1
            if not chunk.left:
                self.chunks -= 1
                self._reply(chunk, self.status(chunk.gateway))
