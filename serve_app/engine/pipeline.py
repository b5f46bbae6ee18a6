"""The engine's threads where a device works by itself: one launches batches, one waits for their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from serve_app.engine.worker import EngineThread
from serve_app.errors import EngineDeadError

Stage = Callable[[], None]
T = TypeVar("T")


class Pipeline:
    """Runs jobs of two stages, each stage in the order of the jobs.

    A job is called for its first stage, and returns its second one. With `overlapping`, second stages have a thread of their
    own: the first stage of a job runs while the second one of the job before still does. Otherwise one job is done after the other.
    Like those of `EngineThread`, jobs report their own failures: what escapes ends the pipeline, and `died` is called with it.
    """

    def __init__(self, died: Callable[[BaseException], None], *, overlapping: bool) -> None:
        self._first = EngineThread(died)
        self._second = EngineThread(died) if overlapping else None

    @property
    def alive(self) -> bool:
        """Whether jobs are still taken and finished."""
        return self._first.alive and (self._second is None or self._second.alive)

    def run(self, job: Callable[[], Stage]) -> None:
        """Queue a job."""
        second = self._second

        def first() -> None:
            rest = job()
            if second is None:
                rest()
            else:
                second.run(rest)

        self._first.run(first)

    def join(self) -> None:
        """End the threads after the jobs they have; blocks until then."""
        self._first.join()
        if self._second is not None:
            self._second.join()


def attempted(step: Callable[[], T]) -> T | Exception:
    """What `step` gives, or the exception it raises: but for those which say that the engine is gone."""
    try:
        return step()
    except EngineDeadError:
        raise
    except Exception as error:
        return error
