"""The faults: what is killed or paused, and the proof that it was."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import psutil

from loadtest.chaos_cluster import ChaosCluster, wait_until
from loadtest.chaos_node import Node, stopped
from loadtest.ration import rationed
from serve_app.cluster.processes import gone, kill

PROOF_SECONDS = 10.0
PAUSE_SECONDS = (3.0, 6.0)
SLOW_SECONDS = 0.8  # less than it takes to be thought silent
SLOW_SHARE = 0.05


class Kind(StrEnum):
    EMBEDDER = "Embedder killed"
    PAUSE = "Embedder paused"
    PAUSE_KILL = "Embedder paused, then killed"
    GATEWAY = "Gateway killed"
    HAPROXY = "HAProxy killed"
    CONTROLLER = "controller killed"
    NODE = "worker node killed"


@dataclass
class Fault:
    """One that was injected; moments in monotonic seconds. `proven`: every process was seen gone, or stopped where that was asked.

    From `begin` until `end` the cluster wasn't whole.
    """

    kind: Kind
    node: str
    pids: list[int]
    begin: float
    end: float = 0.0
    proven: bool = False
    notes: dict[str, float] = field(default_factory=dict)


def schedule(draw: random.Random) -> Iterator[Kind]:
    """Kinds of faults without end: every kind once in each round, in an order of its own."""
    while True:
        yield from draw.sample(list(Kind), len(Kind))


def inject(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    """Do it, and see that it is done. A paused replica runs again, or is dead, when this returns; a dead node has its successor."""
    cluster.look()
    return _INJECT[kind](kind, cluster, draw)


def _kill_embedder(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    node, process = draw.choice(cluster.replicas("Embedder"))
    # It answers in milliseconds, so that most kills would hit nothing. Slowed down for a moment it has work in hand. (Not stopped:
    # what a stopped one hasn't accepted yet, Serve itself sends again.)
    with rationed([process], SLOW_SHARE):
        time.sleep(SLOW_SECONDS)
        return _killed(kind, node, [process])


def _kill_gateway(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    node, process = draw.choice(cluster.replicas("Gateway"))
    return _killed(kind, node, [process])


def _kill_haproxy(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    node = draw.choice(cluster.nodes)
    return _killed(kind, node, node.haproxies())


def _kill_controller(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    node = cluster.nodes[0]
    return _killed(kind, node, node.titled("ServeController"))


def _kill_node(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    node = draw.choice(cluster.workers)
    fault = _killed(kind, node, node.processes())
    while late := node.haproxies():  # one that was just being started
        kill(late)
    begin = time.monotonic()
    cluster.replace(node)
    fault.notes["successor_joined_seconds"] = time.monotonic() - begin
    return fault


def _pause(kind: Kind, cluster: ChaosCluster, draw: random.Random) -> Fault:
    node, process = draw.choice(cluster.replicas("Embedder"))
    fault = Fault(kind, node.name, [process.pid], time.monotonic())
    process.suspend()
    fault.proven = _seen(lambda: stopped(process))
    time.sleep(draw.uniform(*PAUSE_SECONDS))
    fault.notes["still_paused"] = fault.proven and stopped(process)
    if kind is Kind.PAUSE:
        process.resume()
        fault.proven &= bool(fault.notes["still_paused"]) and _seen(lambda: not stopped(process))
    else:
        kill([process])
        fault.proven &= bool(fault.notes["still_paused"]) and _seen(lambda: gone(process))
    return fault


def _killed(kind: Kind, node: Node, processes: list[psutil.Process]) -> Fault:
    fault = Fault(kind, node.name, [process.pid for process in processes], time.monotonic())
    kill(processes)
    fault.proven = bool(processes) and _seen(lambda: all(map(gone, processes)))
    return fault


def _seen(condition: Callable[[], bool]) -> bool:
    try:
        wait_until(condition, PROOF_SECONDS, "")
    except TimeoutError:
        return False
    return True


_INJECT: dict[Kind, Callable[[Kind, ChaosCluster, random.Random], Fault]] = {
    Kind.EMBEDDER: _kill_embedder,
    Kind.PAUSE: _pause,
    Kind.PAUSE_KILL: _pause,
    Kind.GATEWAY: _kill_gateway,
    Kind.HAPROXY: _kill_haproxy,
    Kind.CONTROLLER: _kill_controller,
    Kind.NODE: _kill_node,
}
