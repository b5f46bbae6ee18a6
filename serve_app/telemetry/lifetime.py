"""How long replicas have existed: what they cost goes by it."""

from __future__ import annotations

import threading
import time

from serve_app.telemetry.families import counter

STEP_SECONDS = 1.0


class Lifetime:
    """Counts the life of this process as a replica of `deployment`, in steps, on a thread: while a model loads too.

    `devices` of the kind `device` (gpu or cpu) are held all the time.
    """

    def __init__(self, deployment: str, device: str = "", devices: float = 0.0) -> None:
        self._seconds = counter("replica_seconds", "Time that replicas have existed.", "deployment").labels(deployment)
        self._devices = devices
        family = counter(
            "device_seconds", "Time for which Embedders held devices: GPUs, or CPUs to compute on.", "device"
        )
        self._device_seconds = family.labels(device) if devices else None
        threading.Thread(target=self._count, name="lifetime", daemon=True).start()

    def passed(self, seconds: float) -> None:
        """So much more of it."""
        self._seconds.inc(seconds)
        if self._device_seconds is not None:
            self._device_seconds.inc(seconds * self._devices)

    def _count(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(STEP_SECONDS)
            now = time.monotonic()
            self.passed(now - before)
            before = now
