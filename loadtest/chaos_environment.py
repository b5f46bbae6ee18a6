"""What the processes of a chaos cluster's nodes need in their environment, each node its own."""

from __future__ import annotations

from serve_app.cluster.environment import Ports, serve_environment
from serve_app.cluster.instance import free_port

RAY = {
    # A dead node is noticed by its health checks: after 15 s with Ray's defaults, 2 s with these.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


def free_ports() -> Ports:
    """Ports for the HAProxy of one node; the gateways of all nodes share one range."""
    return Ports(http=free_port(), haproxy_stats=free_port(), haproxy_metrics=free_port(), fallback=free_port())


def node_environment(ports: Ports) -> dict[str, str]:
    """The product's list, with what several nodes on one machine need on top."""
    return serve_environment(ports) | RAY | {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(ports.http)}
