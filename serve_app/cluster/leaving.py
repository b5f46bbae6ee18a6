"""Ending what `embedserve up` started: what was accepted is answered, and no process of Serve's or Ray's stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import psutil
import ray
from ray import serve

from serve_app.cluster.graph import DRAIN_SECONDS
from serve_app.cluster.processes import gone, kill

GRACE_SECONDS = 3.0
_VITAL = "gcs_server", "raylet"


def stop_everything(log: logging.Logger, application: str, serving: bool) -> None:
    """Answer what `application` has accepted, if it is `serving`, then stop Serve and Ray, and see to it that no process of theirs
    stays."""
    if not ray.is_initialized():
        return
    # Serve's background clients complain when the event loop that drained is gone.
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    children = psutil.Process().children(recursive=True)
    # A signal may have gone to the whole group, as systemd and `timeout` send it. Without its GCS Ray waits a minute for it, and then
    # ends this process.
    vital = vital_processes()
    leaving = threading.Thread(target=_leave, args=(log, application, serving), daemon=True)
    leaving.start()
    while leaving.is_alive() and not any(map(gone, vital)):
        leaving.join(0.1)
    if not leaving.is_alive():
        ray.shutdown()
    _, alive = psutil.wait_procs(children, timeout=GRACE_SECONDS)
    kill(alive)


def vital_processes() -> list[psutil.Process]:
    """This process's children without which Ray can do nothing here, those included that have ended and weren't waited for."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() in _VITAL:
                found.append(child)
    return found


def _leave(log: logging.Logger, application: str, serving: bool) -> None:
    try:
        # Deleting takes the replicas away from the gateways at once, so what the gateways still hold goes first.
        if serving:
            asyncio.run(_drain(application))
    except Exception as error:
        log.warning("Not everything accepted was answered (%s)", type(error).__name__)
    try:
        serve.delete(application)
    except Exception as error:
        log.warning("Serve did not shut down cleanly (%s); stopping Ray anyway", type(error).__name__)


async def _drain(application: str) -> None:
    # Asynchronous because Serve's router, tuned for throughput, runs on its caller's event loop.
    async with asyncio.timeout(DRAIN_SECONDS):
        await serve.get_deployment_handle("Gateway", application).broadcast("drain").results_async()
