"""Where the engine goes: decided from what the cluster has, never from what the machine that starts it has."""

from __future__ import annotations

import logging

import ray

from serve_app.config import Settings

logger = logging.getLogger("ray.serve")


def gpus_per_replica(settings: Settings) -> float:
    """`num_gpus` as set, or 1 if the cluster has GPUs now, or 0. The choice is logged, CPU as a warning when it wasn't asked for."""
    if settings.num_gpus is not None:
        return settings.num_gpus
    found = _cluster_gpus()
    if found:
        logger.info("Placement: 1 GPU per Embedder replica (the cluster has %g).", found)
        return 1.0
    logger.warning("Placement: CPU, because the cluster has no GPU now. Set num_gpus=1 if GPU nodes join later.")
    return 0.0


def _cluster_gpus() -> float:
    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0.0))
    # `serve run` builds the application before it connects: look, and leave the connecting to it.
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise RuntimeError(
            "No Ray cluster is running here: set num_gpus (0 for CPU), or RAY_ADDRESS, or start a cluster."
        ) from None
    try:
        return float(ray.cluster_resources().get("GPU", 0.0))
    finally:
        ray.shutdown()
