"""The replica ids of a deployment, on their way from Serve's router to the gateway's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

OnReplicas = Callable[[list[str], list[str]], None]
"""Called with the ids of the replicas that there are, and of those on their way out that still work."""


class ReplicaFeed:
    """The replica ids of one deployment, from the router's thread to the gateway's event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: tuple[list[str], list[str]] = ([], [])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_replicas: OnReplicas | None = None

    def subscribe(self, on_replicas: OnReplicas) -> None:
        """Call `on_replicas` on the running loop, now and whenever the replicas change."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._on_replicas = on_replicas
            on_replicas(*self._ids)

    def publish(self, ids: list[str], leaving: list[str]) -> None:
        with self._lock:
            self._ids = (ids, leaving)
            if self._loop is not None and self._on_replicas is not None:
                self._loop.call_soon_threadsafe(self._on_replicas, ids, leaving)


_feeds: dict[str, ReplicaFeed] = {}


def feed_of(deployment: str) -> ReplicaFeed:
    """This process's feed for a deployment, made at the first mention: router and gateway start in either order."""
    return _feeds.setdefault(deployment, ReplicaFeed())
