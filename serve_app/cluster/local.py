"""`embedserve up`: one machine, from nothing to a serving endpoint, and back to nothing."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import NoReturn

import ray
from ray import serve

from serve_app.cluster.environment import Ports, run_directory
from serve_app.cluster.graph import build
from serve_app.cluster.guarding import keys_of
from serve_app.cluster.haproxy import clear, stop_strays
from serve_app.cluster.instance import Instance, get_json
from serve_app.cluster.leaving import stop_everything, vital_processes
from serve_app.cluster.pinned import pinned
from serve_app.cluster.placement import gpus_per_replica
from serve_app.cluster.processes import gone
from serve_app.cluster.served import open_model
from serve_app.cluster.tokenize import foreign_decoder
from serve_app.cluster.usage import pricing
from serve_app.config import Settings
from serve_app.telemetry.logs import configure_logging

APPLICATION = "embedserve"
READY_SECONDS = 60.0
OBJECT_STORE_BYTES = 256 * 1024 * 1024


class _StopRequestedError(BaseException):
    """Ctrl-C or SIGTERM. Not an `Exception`: nothing on the way may swallow it."""


def serve_here(
    settings: Settings,
    ports: Ports,
    dashboard_port: int | None,
    build: Callable[[Settings], serve.Application] = build,
) -> NoReturn:
    """Serve until Ctrl-C or SIGTERM, then end the process. Whatever happens, Ray and HAProxy are stopped first.

    `build` makes the application; it is called once Ray runs.
    """
    log = configure_logging(settings.log.format)
    instance = Instance.of_this_process(ports.http, settings.model)
    code = 0
    serving = False
    stopping = _stop_on_signals()
    try:
        settings = pinned(_from_here(settings))
        open_model(settings)  # what can't be served is found out before anything starts
        foreign_decoder(settings.token_ids, settings.tiktoken_file)
        pricing(settings.cost)
        keys_of(settings.auth)
        instance.save()
        log.info("Starting Ray")
        ray.init(
            address="local",  # whatever other cluster runs on this machine
            num_cpus=_cpus_needed(settings),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=dashboard_port is not None,
            dashboard_port=dashboard_port,
            logging_level=logging.WARNING,
        )
        stopping = _stop_on_signals()  # ray.init puts its own handlers there
        settings = _placed(settings)
        serve.start(http_options={"host": "0.0.0.0", "port": ports.http}, logging_config={"log_level": "WARNING"})  # noqa: S104
        _deploy(build(settings))
        _wait_until_ready(instance)
        serving = True
        log.info("Ready: %s/v1 serves %s", instance.url, settings.model)
        _until(stopping)
        raise _StopRequestedError
    except (_StopRequestedError, SystemExit, KeyboardInterrupt):
        # The latter two come from Ray's own handlers, while it starts.
        log.info("Stopping")
    except Exception as error:
        # An exception raised by a signal inside C code can come out as another one.
        if stopping():
            log.info("Stopping")
        else:
            log.error("Could not serve: %s", error)
            code = 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stop_everything(log, APPLICATION, serving)
        while stop_strays(run_directory(ports.http)):
            time.sleep(0.2)  # its manager may have started another one meanwhile
        clear(run_directory(ports.http))
    # Not by way of `sys.exit`: Ray's exit handlers would wait for processes that may be gone.
    logging.shutdown()
    os._exit(code)


def _deploy(application: serve.Application) -> None:
    try:
        serve.run(application, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        # Serve's own message only says which deployment failed; the reason is the last line of the replica's traceback.
        deployments = serve.status().applications[APPLICATION].deployments
        reasons = [f"{name}: {status.message.strip()}" for name, status in deployments.items() if status.message]
        raise RuntimeError("\n".join([str(error), *reasons])) from error


def _stop_on_signals() -> Callable[[], bool]:
    """From now on Ctrl-C and SIGTERM raise; the result says whether one has come."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise _StopRequestedError

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return lambda: bool(received)


def _until(stopping: Callable[[], bool]) -> None:
    """Return once `stopping`. Raises `RuntimeError` if Ray's own processes end before."""
    vital = vital_processes()
    while not stopping():  # asked now and then, since an exception raised in a callback from C is only printed
        if any(map(gone, vital)):
            raise RuntimeError("a process of Ray's has ended that nothing works without; Ray's logs are in /tmp/ray")
        time.sleep(0.5)


def _cpus_needed(settings: Settings) -> int:
    """CPUs to tell Ray of: the machine's, or as many as the replicas reserve and one more of each during a rolling update, so that
    they're all placed on a small machine."""
    embedders, gateways = settings.most_replicas + 1, settings.gateways + 1
    reserved = embedders * settings.num_cpus + gateways * settings.gateway_num_cpus
    return max(os.cpu_count() or 1, math.ceil(reserved))


def _from_here(settings: Settings) -> Settings:
    """The settings with absolute paths where gateways, which run in other folders, read and write."""
    auth, ledger = settings.auth, settings.ledger
    if auth.keys_file is not None:
        auth = auth.model_copy(update={"keys_file": str(Path(auth.keys_file).expanduser().resolve())})
    if ledger.path is not None:
        ledger = ledger.model_copy(update={"path": str(Path(ledger.path).expanduser().resolve())})
    return settings.model_copy(update={"auth": auth, "ledger": ledger})


def _placed(settings: Settings) -> Settings:
    """The settings with `num_gpus` decided. Raises `RuntimeError` if there are too few: Serve would wait for them for ever."""
    per_replica = gpus_per_replica(settings)
    needed = settings.most_replicas * per_replica
    found = float(ray.cluster_resources().get("GPU", 0.0))
    if needed > found:
        raise RuntimeError(
            f"{settings.most_replicas} replicas need {needed:g} GPUs and Ray finds {found:g} here. Lower --replicas (or "
            "autoscaling.max_replicas), or --num-gpus (0 for CPU; a fraction like 0.5 lets replicas share a GPU)."
        )
    return settings.model_copy(update={"num_gpus": per_replica})


def _wait_until_ready(instance: Instance) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if get_json(f"{instance.url}/ready")[0] == HTTPStatus.OK:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{instance.url}/ready did not answer 200 within {READY_SECONDS:g} s of deployment")
