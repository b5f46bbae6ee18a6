"""The Serve application: Gateway replicas in front, Embedder replicas behind, one router between them."""

import os
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from serve_app.cluster import environment
from serve_app.cluster.autoscaling_policy import embedder_count
from serve_app.cluster.embedder import Embedder
from serve_app.cluster.gateway import Gateway
from serve_app.cluster.guarding import OPEN
from serve_app.cluster.pinned import pinned
from serve_app.cluster.placement import gpus_per_replica
from serve_app.config import Settings
from serve_app.telemetry.logs import configure_logging

# Serve's own admission is set out of the way: the dispatcher bounds what is in flight, in tokens.
GATEWAY_CONCURRENCY = 10_000
EMBEDDER_CONCURRENCY = 1_000

# Gateways that a rolling update starts before it stops old ones: they are cheap, and one that is gone can't answer.
GATEWAY_SURGE_PERCENT = 25
EMBEDDER_CPU_SURGE_PERCENT = 25

# Given even when empty, so that Serve asks replicas to `reconfigure` from their start on.
NO_CHANGES: dict[str, Any] = {}

# How long a replica that is to stop may take to finish what it has accepted.
DRAIN_SECONDS = 60


def build(settings: Settings) -> serve.Application:
    """The application for `serve run serve_app:build key=value …`, for `args:` in a Serve config file and for `embedserve up`.

    (Annotations are real types here, not strings: Serve reads them to validate the arguments.)
    """
    return application(settings)


def application(settings: Settings, embedder: type[Embedder] = Embedder) -> serve.Application:
    """The graph, with another `Embedder` class if one is given: its `load` can put something else in the engine's place."""
    logger = configure_logging(settings.log.format)
    if absent := environment.missing(os.environ):
        logger.warning(
            "Ray may have been started without %s: the service works, at a fraction of its throughput. "
            "`embedserve env` prints what to export on every node before `ray start`.",
            ", ".join(absent),
        )
    if not settings.auth.on:
        logger.warning(OPEN)
    settings = pinned(settings)
    num_gpus = gpus_per_replica(settings)
    # Below WARNING Serve makes a log record per request even when it then drops it.
    logging_config: dict[str, Any] = {
        "enable_access_log": settings.access_log,
        "log_level": "INFO" if settings.access_log else "WARNING",
    }
    embedding = serve.deployment(embedder).options(
        name="Embedder",
        **embedder_count(settings),
        max_ongoing_requests=EMBEDDER_CONCURRENCY,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": num_gpus},
        request_router_config=RequestRouterConfig(request_router_class="serve_app.cluster.routing:PinnedRouter"),
        max_surge_percent=embedder_surge_percent(settings, num_gpus),
        user_config=NO_CHANGES,
        health_check_period_s=2,
        health_check_timeout_s=5,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        logging_config=logging_config,
    )
    gateway = serve.deployment(Gateway).options(
        name="Gateway",
        num_replicas=settings.gateways,
        max_ongoing_requests=GATEWAY_CONCURRENCY,
        ray_actor_options={"num_cpus": settings.gateway_num_cpus},
        max_surge_percent=GATEWAY_SURGE_PERCENT,
        user_config=NO_CHANGES,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        logging_config=logging_config,
    )
    return gateway.bind(settings, num_gpus, embedding.bind(settings, num_gpus))


def embedder_surge_percent(settings: Settings, num_gpus: float) -> int:
    """How many Embedders, in percent, a rolling update starts before it stops old ones.

    Serve waits without end for the resources of those, and only then stops an old one: with every GPU taken, the update would hang.
    """
    if settings.max_surge_percent is not None:
        return settings.max_surge_percent
    return 0 if num_gpus else EMBEDDER_CPU_SURGE_PERCENT
