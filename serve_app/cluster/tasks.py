"""Tasks nobody awaits, kept alive while they run and cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context


class TaskGroup:
    """The background tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a coroutine on the running loop; it deals with its own exceptions."""
        # In an empty context: a chunk belongs to many requests, and must not be logged, traced or cancelled by Serve
        # as part of the one that happened to start it.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        # The loop itself holds tasks only weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        """Cancel all and wait until they are gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
