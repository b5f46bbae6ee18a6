"""The environment that Ray Serve needs for this graph's speed, stated once.

Ray reads `RAY_SERVE_*` when it is imported, so these must be set on every node before Ray starts there. `embedserve up` sets
them itself; for a cluster that somebody else starts, `embedserve env` prints them. Without them the application works, more
slowly, and `missing` says so.
"""

from __future__ import annotations

import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of one node. Only `http` is for clients; the others want a firewall: HAProxy and the gateways bind all interfaces."""

    http: int = 8000
    haproxy_stats: int = 8404
    haproxy_metrics: int = 9101
    gateway_first: int = 47000  # Serve's own default, 30000, is where users of other servers expect the service itself
    gateway_last: int = 47999
    fallback: int = 8500  # Serve's own proxy, which HAProxy sends to where no gateway answers; Serve's default


# What costs throughput when it's missing; ports and paths don't.
PERFORMANCE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # gRPC's default of 4 MiB is less than one chunk of vectors.
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(256 * 1024 * 1024),
}


SLOW_CLIENTS = "timeout http-request 60s"
"""HAProxy's bound for a request's head, and for its body up to the buffer's size: Serve sets none, so that a client could hold one of
its 4,096 connections with a byte an hour. It answers 408. What comes behind the buffer is the gateway's to bound."""

READING_SECONDS = 120

# A gateway that dies with requests in flight shall cost its clients nothing: embedding is idempotent, so HAProxy sends them to
# another one. It can as long as nothing was answered and it has the whole request at hand, which needs:
# - `empty-response` (and `junk-response`, half of a response's headers), where Serve's default retries failed connections only;
# - the body awaited before the request is passed on (the second line, which ends up in HAProxy's `defaults`, like the third).
#   Clients send headers and body apart, and what wasn't complete when its first byte was passed on is never sent again;
# - a buffer that the request fits in. Larger ones end in HAProxy's own 500, which OpenAI's clients retry. One buffer is held for
#   each request in flight, and a second one while bytes move: 0.25 MiB, so 256 MiB for 1,000 requests in flight, 1 GiB at
#   Serve's bound of 4,096 connections per node;
# - a server that refused one connection being down at once. A reload leaves a HAProxy behind that finishes what it has with the
#   servers it knew; where only dead ones are left, Serve's own proxy is the way out, but it is tried only when those are down,
#   and after three retries there is none left to try it with.
RETRIES = {
    "RAY_SERVE_HAPROXY_RETRY_ON": "\n    ".join(
        ("conn-failure empty-response junk-response", "option http-buffer-request", SLOW_CLIENTS)
    ),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
}


def run_directory(port: int) -> Path:
    """Where the instance on `port` keeps its HAProxy files; two instances on one machine must not share them."""
    return Path(tempfile.gettempdir()) / f"embedserve-{port}"


def serve_environment(ports: Ports | None = None, cores: int = 4) -> dict[str, str]:
    """The whole list for one node with `cores` CPU cores."""
    ports = ports or Ports()
    haproxy = run_directory(ports.http) / "haproxy"
    return {
        **PERFORMANCE,
        **RETRIES,
        # What clients may tell Serve, see there.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.cluster.edge:middlewares",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, cores // 4))),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.gateway_first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.gateway_last),
        # Bound with SO_REUSEPORT: two instances on one machine that had the same would get each other's requests.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        # A killed HAProxy is replaced when its health check notices: 29 s with Serve's default, 4 to 7 s with this.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
        # With Serve's default, 5 s, a machine that takes longer to start HAProxy's actor has it killed meanwhile, and `up` fails.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # And until then another stands in for it, see there.
        **guarded_haproxy(),
        # Who reads nothing of an answer for so long is cut off, where Serve would wait for an hour. Who waits for one isn't.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(READING_SECONDS),
        # HAProxy would log each request to a Python process, which parses it for metrics that the gateway has already.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # Ray starts its workers at 15: whatever else runs on the node would come before the service.
        "RAY_worker_niceness": "0",
    }


def guarded_haproxy() -> dict[str, str]:
    """Makes Serve start HAProxy by our command, where that is installed."""
    command = Path(sysconfig.get_path("scripts")) / "embedserve-haproxy"
    return {"RAY_SERVE_HAPROXY_BINARY_PATH": str(command)} if command.exists() else {}


def missing(environ: Mapping[str, str]) -> list[str]:
    """Names of the variables whose absence costs throughput."""
    return [name for name, value in PERFORMANCE.items() if environ.get(name) != value]
