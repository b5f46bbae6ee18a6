"""Stopping HAProxy for sure: Ray starts one per node and, stopped hard, leaves it running with the port in its hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil


def strays(run_directory: Path) -> list[psutil.Process]:
    """HAProxy processes whose configuration lies in this instance's directory."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        if "haproxy" in (process.info["name"] or "") and any(f"{run_directory}/" in argument for argument in arguments):
            found.append(process)
    return found


def stop_strays(run_directory: Path, patience_seconds: float = 3.0) -> int:
    """Terminate them, then kill what is left; returns how many there were."""
    processes = strays(run_directory)
    for process in processes:
        _signal(process, "terminate")
    _, alive = psutil.wait_procs(processes, timeout=patience_seconds)
    for process in alive:
        _signal(process, "kill")
    psutil.wait_procs(alive, timeout=patience_seconds)
    return len(processes)


def clear(run_directory: Path) -> None:
    """Remove what the instance left on disk, once nothing of it runs any more: an instance a port would pile up."""
    shutil.rmtree(run_directory, ignore_errors=True)


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        return
