"""Stop computing for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from serve_app.api.body import ClientDisconnectedError
from serve_app.api.http import Receive

T = TypeVar("T")

# Listening costs a task. A request that is answered sooner than this isn't worth one: what a disconnect could
# save is already running.
GRACE_SECONDS = 0.02


async def until_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """Await `work`, and cancel it once the client disconnects.

    Raises `ClientDisconnectedError` then; a cancellation from outside passes through as it is.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False
    listener: asyncio.Task[None] | None = None

    async def listen() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    def start() -> None:
        nonlocal listener
        listener = loop.create_task(listen())

    loop = asyncio.get_running_loop()
    timer = loop.call_later(GRACE_SECONDS, start)
    try:
        return await work
    except asyncio.CancelledError:
        # The listener's cancellation is ours to swallow, unless somebody else has asked for one too.
        if gone and task.uncancel() == 0:
            raise ClientDisconnectedError from None
        raise
    finally:
        timer.cancel()
        if listener is not None:
            listener.cancel()
