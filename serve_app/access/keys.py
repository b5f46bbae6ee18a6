"""The keys that are valid now: those of the settings, and those of a file that is read again when it changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from serve_app.access.key import ApiKey, KeyRing
from serve_app.access.key_file import read_keys

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0

# A file may be written twice within one step of its clock: one so young is read again.
FRESH_SECONDS = 2.0

Stamp: TypeAlias = tuple[int, int, int]


class Keys:
    """`ring` is replaced whole. Raises ValueError if the file can't be used at the start; later it then stays as it was.

    `clock` gives the time of day, as files have it.
    """

    def __init__(
        self, fixed: Iterable[ApiKey] = (), file: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._fixed = [*fixed]
        self._file = Path(file).expanduser() if file is not None else None
        self._clock = clock
        self._stamp: Stamp | None = None
        self._complaint = ""
        self.ring = self._read()

    def look(self) -> None:
        """Take over the file if it has changed. One that can't be used is complained of once, and its keys stay. Blocks."""
        if self._file is not None and self._stamp is not None and self._stamp == self._stamp_now():
            return
        try:
            ring = self._read()
        except ValueError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("%s. The API keys stay as they were.", error)
            return
        self._complaint = ""
        if ring.keys != self.ring.keys:
            logger.info("API keys changed: %s", differences(self.ring.keys, ring.keys))
            self.ring = ring

    async def watch(self) -> None:
        """Look every second, until cancelled."""
        while self._file is not None:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception as error:
                logger.error(
                    "Looking at the file of API keys failed (%s); they stay as they were.", type(error).__name__
                )

    def _read(self) -> KeyRing:
        if self._file is None:
            return KeyRing(self._fixed)
        stamp = self._stamp_now()
        found = read_keys(self._file)
        fresh = stamp is None or self._clock() - stamp[0] / 1e9 < FRESH_SECONDS
        self._stamp = None if fresh else stamp
        try:
            return KeyRing([*self._fixed, *found])
        except ValueError as error:
            raise ValueError(f"The file of API keys {self._file} can't be used: {error}") from None

    def _stamp_now(self) -> Stamp | None:
        assert self._file is not None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def differences(before: dict[str, ApiKey], after: dict[str, ApiKey]) -> str:
    """The names of keys that came, went or are otherwise now: `+new, -gone, ~changed`."""
    marks = [("+", name) for name in after if name not in before] + [
        ("-", name) for name in before if name not in after
    ]
    marks += [("~", name) for name in after if name in before and after[name] != before[name]]
    return ", ".join(mark + name for mark, name in marks)
