"""One node of a chaos cluster: its ports, and its processes told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil

from serve_app.cluster.environment import Ports
from serve_app.cluster.processes import gone

APPLICATION = "embedserve"


@dataclass(eq=False)
class Node:
    """A node on this machine. `ray` is Ray's own object of it, which knows its raylet."""

    name: str
    ports: Ports
    ray: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.http}"

    def processes(self) -> list[psutil.Process]:
        """All of them: the raylet, what it started, and HAProxy; on the head also the GCS."""
        own = [info.process.pid for infos in self.ray.all_processes.values() for info in infos]
        found: dict[psutil.Process, None] = {}
        for pid in own:
            try:
                process = psutil.Process(pid)
                found |= dict.fromkeys([process, *process.children(recursive=True)])
            except psutil.NoSuchProcess:
                continue
        return list(found | dict.fromkeys(self.haproxies()))

    def titled(self, title: str) -> list[psutil.Process]:
        """Its living Ray workers with this title."""
        return [process for process in self.processes() if command(process).startswith(f"ray::{title}")]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Its living replicas of a deployment."""
        return self.titled(f"ServeReplica:{APPLICATION}:{deployment}")

    def haproxies(self) -> list[psutil.Process]:
        """Its living HAProxy processes: one, or more while old ones finish after a reload. Each has the node's id in its paths."""
        lines = [(process, command(process)) for process in psutil.process_iter()]
        return [process for process, line in lines if is_haproxy(line) and f"/{self.ray.node_id}/" in line]


def command(process: psutil.Process) -> str:
    """The command line, empty for a process that is gone."""
    try:
        return "" if gone(process) else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def is_haproxy(line: str) -> bool:
    """Whether a command line is HAProxy's, and not its guard's."""
    return line.partition(" ")[0].endswith("/haproxy")


def stopped(process: psutil.Process) -> bool:
    """Whether SIGSTOP has stopped it."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False
