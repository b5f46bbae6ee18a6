"""What the replicas of a service say of themselves: asyncio tasks, references into Ray's object store, work at hand."""

from __future__ import annotations

import re
import time
from typing import TypeAlias

import psutil
import ray
from ray import serve
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from loadtest.running import Running
from serve_app.cluster.local import APPLICATION

# Each process under its pid, by the names that `vitals` of the deployments gives.
Vitals: TypeAlias = dict[int, dict[str, int]]

DEPLOYMENTS = ("Gateway", "Embedder")
AT_HAND = ("queued_tokens", "in_flight_tokens", "outstanding_tokens")
# How much more of each a replica at rest may have than before: tasks of Serve's come and go, HAProxy keeps some connections open.
SPARE = {"tasks": 5, "object_references": 5, "file_descriptors": 20}
ANSWER_SECONDS = 30.0
_ADDRESS = re.compile(r"--gcs-address=([\w.:\[\]-]+:\d+)")


class Inside:
    """This process as a second driver of the service's Ray cluster; one at a time."""

    def __init__(self, service: Running) -> None:
        # As `ray.init` does by itself for a cluster that it finds, but not for one that it's told of.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        ray.init(address=address_of(service), log_to_driver=False, logging_level="ERROR")
        self._handles = [serve.get_deployment_handle(name, APPLICATION) for name in DEPLOYMENTS]

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *exception: object) -> None:
        ray.shutdown()

    def vitals(self) -> Vitals:
        """Of every replica, now."""
        answers = [
            answer
            for handle in self._handles
            for answer in handle.broadcast("vitals").results(timeout_s=ANSWER_SECONDS)
        ]
        return {answer["pid"]: answer for answer in answers}

    def at_rest(self, seconds: float = 60.0) -> Vitals:
        """The vitals once nothing is at hand any more. Raises `TimeoutError` if that takes longer."""
        deadline = time.monotonic() + seconds
        while busy(now := self.vitals()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"work is still at hand {seconds:g} s after the last request: {now}")
            time.sleep(1.0)
        return now


def busy(vitals: Vitals) -> bool:
    """Whether any replica has work."""
    return any(of_one.get(name) for of_one in vitals.values() for name in AT_HAND)


def leaks(before: Vitals, after: Vitals) -> list[str]:
    """What replicas at rest have more of than when they were at rest before."""
    return [
        f"pid {pid}: {name} {of_one[name]}, {before[pid][name]} before"
        for pid, of_one in after.items()
        for name, spare in SPARE.items()
        if pid in before and of_one[name] > before[pid][name] + spare
    ]


def address_of(service: Running) -> str:
    """Where the service's Ray cluster is, from the command lines of its processes. Raises `RuntimeError` if it isn't found."""
    for process in service.groups().get("ray", []):
        try:
            if found := _ADDRESS.search(" ".join(process.cmdline())):
                return found[1]
        except psutil.NoSuchProcess:
            continue
    raise RuntimeError(f"no Ray cluster found behind port {service.port}")
