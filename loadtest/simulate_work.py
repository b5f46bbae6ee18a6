"""What moves through the simulated cluster: requests, cut into bundles of equal inputs, that travel in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from serve_app.engine.lane import QueuedInput
from serve_app.engine.queue import QueuePolicy
from serve_app.types import Priority


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of one kind, Poisson at `rate` requests a second (of simulated time).

    Each has `inputs` inputs, all of one length, drawn between `shortest` and `longest` tokens, log-uniformly.
    """

    name: str
    rate: float | Callable[[float], float]
    inputs: int = 1
    shortest: int = 10
    longest: int = 10
    priority: Priority = Priority.INTERACTIVE

    @property
    def mean_tokens(self) -> float:
        """Mean length of an input."""
        low, high = self.shortest, self.longest
        return float(low) if low == high else (high - low) / math.log(high / low)

    def rate_at(self, now: float) -> float:
        """Requests a second at this time."""
        return self.rate(now) if callable(self.rate) else self.rate

    def length(self, random: Random) -> int:
        """Tokens of the inputs of one request."""
        if self.shortest == self.longest:
            return self.shortest
        return round(self.shortest * math.exp(math.log(self.longest / self.shortest) * random.random()))


class Request:
    """A client's call: `left` bundles of it are unanswered. It came through the HAProxy `via` to `gateway`."""

    __slots__ = ("arrival", "gateway", "inputs", "kind", "left", "tokens_each", "via")

    def __init__(
        self, kind: int, inputs: int, tokens_each: int, arrival: float, via: int = 0, gateway: int = 0
    ) -> None:
        self.kind = kind
        self.inputs = inputs
        self.tokens_each = tokens_each
        self.arrival = arrival
        self.via = via
        self.gateway = gateway
        self.left = 0


class Bundle(QueuedInput):
    """Inputs of one request that stay together: what the real queue holds one of, per input.

    The queue asks its policy for a lane by tokens and priority; a bundle's lane is that of its inputs, worked out before, and
    stands where the priority would: see `BundlePolicy`.
    """

    __slots__ = ("chunk", "inputs", "request")

    def __init__(self, request: Request, inputs: int, lane: int, arrival: float) -> None:
        super().__init__(request.tokens_each * inputs, lane, math.inf, arrival)
        self.request = request
        self.inputs = inputs
        self.chunk: Chunk | None = None

    def again(self, now: float) -> Bundle:
        """The same, as if it arrived now: in a queue, an input is pushed once in its life."""
        bundle = Bundle(self.request, self.inputs, self.lane, now)
        bundle.chunk = self.chunk
        return bundle


class BundlePolicy(QueuePolicy):
    """The service's own queue policy for bundles."""

    __slots__ = ()

    def lane(self, tokens: int, priority: int) -> int:
        return priority


class Chunk:
    """Bundles of one lane in one RPC from `gateway` to `replica`; `left` of them are not computed."""

    __slots__ = ("bundles", "gateway", "inputs", "lane", "left", "queued_tokens", "received", "replica", "tokens")

    def __init__(
        self, gateway: int, replica: str, lane: int, tokens: int, bundles: list[Bundle], queued_tokens: int
    ) -> None:
        self.gateway = gateway
        self.replica = replica
        self.lane = lane
        self.tokens = tokens
        self.bundles = bundles
        self.inputs = sum([bundle.inputs for bundle in bundles])
        self.queued_tokens = queued_tokens
        self.left = len(bundles)
        self.received = 0.0
        for bundle in bundles:
            bundle.chunk = self


def cut(request: Request, lane: int, now: float, max_tokens: int, max_inputs: int) -> Iterator[Bundle]:
    """A request's inputs in bundles that each fit into one chunk."""
    most = max(1, min(max_inputs, max_tokens // max(1, request.tokens_each)))
    left = request.inputs
    while left > 0:
        inputs = min(left, most)
        left -= inputs
        request.left += 1
        yield Bundle(request, inputs, lane, now)


def within(bundles: list[Bundle], max_inputs: int) -> int:
    """How many of the first bundles hold at most `max_inputs` inputs together; at least one."""
    inputs = 0
    for i, bundle in enumerate(bundles):
        inputs += bundle.inputs
        if inputs > max_inputs:
            return max(1, i)
    return len(bundles)
