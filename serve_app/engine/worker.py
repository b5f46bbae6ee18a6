"""The engine's thread: blocking work, one piece after the other, off the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class EngineThread:
    """One daemon thread that runs jobs in order.

    A job that raises ends the thread: a job reports its own failures, so whatever escapes it means that the
    engine can't go on. `died` is then called, on this thread, with the exception.
    """

    def __init__(self, died: Callable[[BaseException], None]) -> None:
        self._died = died
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still takes jobs."""
        return self._thread.is_alive()

    def run(self, job: Callable[[], None]) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def join(self) -> None:
        """End the thread after the jobs it has; blocks until then."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as error:
                self._died(error)
                return
