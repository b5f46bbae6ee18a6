"""Scenarios of size: where gateways, HAProxy and the router's view become the limit, from 2 replicas to 1,000."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.simulate_cluster import DISPATCH, Cluster, Layout
from loadtest.simulate_costs import DEVICES, GATEWAY, WIRE, Device, GatewayCosts
from loadtest.simulate_gateway import Gateway, View
from loadtest.simulate_policies import ROUTING
from loadtest.simulate_report import result
from loadtest.simulate_views import heard_view, tokens_view
from loadtest.simulate_work import Traffic

LADDER = (2, 10, 30, 100, 300, 1000)
PER_REPLICA = 1000.0  # inputs a second
REQUEST_INPUTS = 64
UTILIZATION = 0.6  # that gateways and HAProxies are planned with
SUBSET = 25
STEADY_MS = 500.0
SLOTS = DISPATCH.slots_per_replica

FREE = GatewayCosts(0.0, 0.0, 0.0, 0.0, 0.0, "none: only the choice of replica is to differ")


def gateways_for(requests: float, inputs: int, costs: GatewayCosts = GATEWAY, replicas: int = SUBSET) -> int:
    """How many gateways that many requests a second need, if each request is a chunk of its own."""
    each = costs.request + inputs * costs.input + costs.chunk + costs.choosing(replicas)
    return math.ceil(requests * each / UTILIZATION)


def proxies_for(requests: float) -> int:
    """How many HAProxies."""
    return math.ceil(requests * WIRE.proxy / UTILIZATION / WIRE.proxy_threads)


def ladder(
    seed: int, sizes: Sequence[int] = LADDER, longest: float = 60.0, device: Device = DEVICES["l4"]
) -> dict[str, Any]:
    """The same load per replica on ever more of them, each gateway seeing all replicas, as ours does or without fading, or a
    subset.

    The largest with subsets runs for `longest` seconds, the others for a twelfth of that.
    """
    rows = []
    for replicas in sizes:
        requests = PER_REPLICA * replicas / REQUEST_INPUTS
        gateways = gateways_for(requests, REQUEST_INPUTS)
        ways: dict[str, tuple[Callable[[Cluster, Gateway], View], int]] = {
            "all": (tokens_view(SLOTS), 0),
            "all, as last heard": (heard_view(SLOTS), 0),
            f"subset of {SUBSET}": (tokens_view(SLOTS), SUBSET),
        }
        for name, (view, subset) in ways.items():
            if subset and subset >= replicas:
                continue
            layout = Layout(device, replicas, gateways, proxies_for(requests), gateway_view=view, subset=subset)
            traffic = Traffic("bulk", requests, REQUEST_INPUTS, 20, 70)
            # Looking at a thousand replicas for every chunk takes as long here as it does in a gateway.
            seconds = longest if subset and replicas == max(sizes) else longest / 12
            rows.append({"view": name, "offered": PER_REPLICA * replicas, **_run(layout, [traffic], seconds, seed)})
    return {
        "what": f"{REQUEST_INPUTS} inputs of 20-70 tokens a request, {PER_REPLICA:g} inputs/s per replica",
        "rows": rows,
    }


def gateway_limit(seed: int, seconds: float = 6.0, device: Device = DEVICES["l4"]) -> dict[str, Any]:
    """The highest load that one gateway answers with a p99 under `STEADY_MS`, by inputs per request; and how many gateways and
    HAProxies a million inputs a second need at the utilisation they are planned with."""
    rows = []
    for inputs in (1, 8, 64, 256):
        bound = 1 / (GATEWAY.request + inputs * GATEWAY.input)  # if chunks cost nothing
        best: dict[str, Any] = {"inputs_per_second": 0.0, "inputs_per_chunk": 0.0}
        for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
            layout = Layout(device, 100, 1, proxies_for(bound), subset=SUBSET)
            found = _run(layout, [Traffic("requests", share * bound, inputs, 20, 70)], seconds, seed)
            latency = found["latency_ms"]["requests"]
            if latency is None or latency["p99"] > STEADY_MS:
                break
            best = found
        rate = best["inputs_per_second"]
        rows.append(
            {
                "inputs_per_request": inputs,
                "inputs_per_second": rate,
                "requests_per_second": rate / inputs,
                "inputs_per_chunk": best["inputs_per_chunk"],
                "gateways_for_a_million": math.ceil(1e6 / (rate * UTILIZATION)) if rate else None,
                "proxies_for_a_million": proxies_for(1e6 / inputs),
            }
        )
    return {"what": f"one gateway on {SUBSET} replicas: the most with a p99 under {STEADY_MS:g} ms", "rows": rows}


def routing(
    seed: int, replicas: int = 64, gateways: Sequence[int] = (1, 8, 64), seconds: float = 20.0, load: float = 0.7
) -> dict[str, Any]:
    """Short queries beside 8k documents, at `load` of the devices' capacity, by policy and number of gateways."""
    device = DEVICES["l4"]
    rows = []
    for count in gateways:
        for name, view in ROUTING.items():
            layout = Layout(device, replicas, count, proxies_for(20 * replicas), costs=FREE, gateway_view=view(SLOTS))
            rows.append({"policy": name, **_run(layout, skewed(device, replicas, load), seconds, seed)})
        if count > 1:
            subset = max(4, min(replicas // 2, 4 * replicas // count))
            layout = Layout(device, replicas, count, proxies_for(20 * replicas), costs=FREE, subset=subset)
            name = f"least tokens, subset of {subset}"
            rows.append({"policy": name, **_run(layout, skewed(device, replicas, load), seconds, seed)})
    return {"what": f"single short queries and 8k documents on {replicas} replicas at {load:.0%} load", "rows": rows}


def skewed(device: Device, replicas: int, load: float) -> list[Traffic]:
    """Nine queries for every document; documents make up nearly all of the work."""
    document = device.seconds(8192, 1)
    query = Traffic("query", 0.0, 1, 10, 40)
    each = document + 9 * (query.mean_tokens / device.tokens_per_second + device.batch_seconds)
    documents = load * replicas / each
    return [Traffic("query", 9 * documents, 1, 10, 40), Traffic("document", documents, 1, 8192, 8192)]


def _run(layout: Layout, traffic: list[Traffic], seconds: float, seed: int) -> dict[str, Any]:
    cluster = Cluster(layout, traffic, seed, warm=min(2.0, seconds / 5))
    cluster.run(seconds)
    return result(cluster)
