"""Holds processes to a share of a core each by stopping and continuing them, so that a machine with few cores can show what more of
them would give."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil

PERIOD_SECONDS = 0.02


@contextmanager
def rationed(processes: Sequence[psutil.Process], share: float) -> Iterator[None]:
    """While the context lasts, each of the processes runs for `share` of the time, in turns with the others.

    One that has a single busy thread is limited to `share` cores so.
    """
    done = threading.Event()

    def take_turns(process: psutil.Process, offset: float) -> None:
        time.sleep(offset)
        with contextlib.suppress(psutil.NoSuchProcess):
            while not done.is_set():
                process.suspend()
                time.sleep(PERIOD_SECONDS * (1 - share))
                process.resume()
                time.sleep(PERIOD_SECONDS * share)

    threads = [
        threading.Thread(target=take_turns, args=(process, PERIOD_SECONDS * i / len(processes)))
        for i, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()
