"""The simulated cluster: clients, HAProxies, gateways and replicas, wired together, and what is counted."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import process_time

from loadtest.simulate_costs import GATEWAY, WIRE, Device, GatewayCosts, Wire
from loadtest.simulate_events import Events, Station
from loadtest.simulate_gateway import Gateway, View
from loadtest.simulate_replica import Replica
from loadtest.simulate_views import subset, tokens_view
from loadtest.simulate_work import Chunk, Request, Traffic
from serve_app.config import DispatchSettings
from serve_app.types import ReplicaStatus

DISPATCH = DispatchSettings()
OURS = tokens_view(DISPATCH.slots_per_replica)


@dataclass(frozen=True)
class Layout:
    """What there is. `gateway_view` makes each gateway's view of the replicas; with `subset`, it sees only so many."""

    device: Device
    replicas: int
    gateways: int = 1
    proxies: int = 1
    costs: GatewayCosts = GATEWAY
    wire: Wire = WIRE
    chunk_tokens: int = 16_384
    chunk_inputs: int = DISPATCH.chunk_inputs
    gateway_view: Callable[[Cluster, Gateway], View] = OURS
    subset: int = 0


class Proxy:
    """One HAProxy: leastconn over all gateways, the next in turn among equals."""

    def __init__(self, gateways: int, threads: int) -> None:
        self.station = Station(threads)
        self._open = [0] * gateways
        self._next = 0

    def choose(self) -> int:
        """The gateway of the next request."""
        counts = self._open
        least = min(counts)
        try:
            gateway = counts.index(least, self._next)
        except ValueError:
            gateway = counts.index(least)
        counts[gateway] += 1
        self._next = gateway + 1
        return gateway

    def closed(self, gateway: int) -> None:
        """A request of that gateway was answered."""
        self._open[gateway] -= 1


class Cluster:
    """One run. Requests that arrive before `warm` seconds are served and not counted in latencies and rates."""

    def __init__(self, layout: Layout, traffic: list[Traffic], seed: int = 0, warm: float = 0.0) -> None:
        self.layout = layout
        self.traffic = traffic
        # Apart, so that runs with the same seed have the same requests whatever the policy draws.
        self.choices = Random(f"choices {seed}")
        self._devices = Random(f"devices {seed}")
        self._arrivals = [Random(f"{each.name} {seed}") for each in traffic]
        self.events = Events()
        self.warm = warm
        self.sent: Counter[str] = Counter()  # inputs, by traffic
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.answered_warm = 0  # inputs answered after `warm`
        self.latencies: dict[str, array[float]] = {each.name: array("d") for each in traffic}
        self.refusals = array("d")
        self.waits = array("d")
        self.replicas: dict[str, Replica] = {}
        self.retired: list[Replica] = []
        self.gateways: list[Gateway] = []
        self.proxies = [Proxy(layout.gateways, layout.wire.proxy_threads) for _ in range(layout.proxies)]
        self.host_seconds = 0.0
        self._stop_at = 0.0
        self._started = 0
        self._on_the_way: Counter[str] = Counter()  # tokens sent and not answered, by replica
        self._requests_at: Counter[str] = Counter()
        for number in range(layout.gateways):
            gateway = Gateway(
                self.events,
                number,
                layout.costs,
                chunk_tokens=layout.chunk_tokens,
                chunk_inputs=layout.chunk_inputs,
                send=self._send,
                done=self._done,
            )
            gateway.view = layout.gateway_view(self, gateway)
            self.gateways.append(gateway)
        self.add_replicas(layout.replicas)

    def add_replicas(self, count: int) -> None:
        """So many more, ready at once, known to all gateways at once."""
        for _ in range(count):
            name = f"replica-{self._started:04}"
            self._started += 1
            self.replicas[name] = Replica(
                self.events, name, self.layout.device, self._replied, self._devices, self.waits
            )
        self._announce()

    def retire_replicas(self, count: int) -> None:
        """So many fewer: no gateway sends them more, and they finish what they have."""
        idle_first = sorted(self.replicas, key=lambda name: self.replicas[name].outstanding_tokens)
        for name in idle_first[:count]:
            self.retired.append(self.replicas.pop(name))
        self._announce()

    def run(self, seconds: float, *, drain: bool = False) -> None:
        """Clients send for `seconds`; with `drain`, everything is answered after that."""
        began = process_time()
        self._stop_at = self.events.now + seconds
        for kind, _ in enumerate(self.traffic):
            self._next_arrival(kind)
        self.events.run(self._stop_at)
        while drain and len(self.events):
            self.events.run(self.events.now + 1.0)
        self.host_seconds += process_time() - began

    def tokens_at(self, replica: str) -> int:
        """Tokens at a replica or on the way to it."""
        return self._on_the_way[replica]

    def requests_at(self, replica: str) -> int:
        """RPCs at a replica or on the way to it."""
        return self._requests_at[replica]

    def _announce(self) -> None:
        names = [*self.replicas]
        for gateway in self.gateways:
            size = self.layout.subset or len(names)
            gateway.set_replicas(subset(names, gateway.number, len(self.gateways), size))

    def _next_arrival(self, kind: int) -> None:
        now, rate = self.events.now, self.traffic[kind].rate_at(self.events.now)
        # Where there's no traffic now, look again soon.
        at = now + (self._arrivals[kind].expovariate(rate) if rate > 0 else 1.0)
        if at <= self._stop_at:
            self.events.at(at, self._arrive if rate > 0 else self._next_arrival, kind)

    def _arrive(self, kind: int) -> None:
        self._next_arrival(kind)
        random, traffic, wire = self._arrivals[kind], self.traffic[kind], self.layout.wire
        now = self.events.now
        via = int(random.random() * len(self.proxies))
        proxy = self.proxies[via]
        gateway = proxy.choose()
        request = Request(kind, traffic.inputs, traffic.length(random), now, via, gateway)
        self.sent[traffic.name] += request.inputs
        passed = proxy.station.serve(now, wire.proxy / 2) + wire.client / 2
        self.events.at(passed, self.gateways[gateway].receive, request, traffic.priority)

    def _send(self, chunk: Chunk, at: float) -> None:
        name = chunk.replica
        self._on_the_way[name] += chunk.tokens
        self._requests_at[name] += 1
        self.events.at(at + self.layout.wire.hop, self.replicas[name].receive, chunk)

    def _replied(self, chunk: Chunk, status: ReplicaStatus) -> None:
        self._on_the_way[chunk.replica] -= chunk.tokens
        self._requests_at[chunk.replica] -= 1
        gateway = self.gateways[chunk.gateway]
        self.events.at(self.events.now + self.layout.wire.hop, gateway.reply, chunk, status)

    def _done(self, request: Request, at: float, answered: bool) -> None:
        # The reply leaves when the gateway's turn has come to it; HAProxy must see replies in order of time.
        self.events.at(at, self._return, request, answered)

    def _return(self, request: Request, answered: bool) -> None:
        name, wire, now = self.traffic[request.kind].name, self.layout.wire, self.events.now
        proxy = self.proxies[request.via]
        proxy.closed(request.gateway)
        latency = proxy.station.serve(now, wire.proxy / 2) + wire.client / 2 - request.arrival
        counted = request.arrival >= self.warm
        if not answered:
            self.refused[name] += request.inputs
            if counted:
                self.refusals.append(latency)
            return
        self.answered[name] += request.inputs
        if now >= self.warm:
            self.answered_warm += request.inputs
        if counted:
            self.latencies[name].append(latency)
