"""The directory in which the processes of one node count: who counts there, and what all of them have counted.

Every process has memory-mapped files of its own there (`prometheus_client`'s multiprocess mode), so a SIGKILL loses nothing that was
counted. What the dead ones have counted is merged into one file, the archive:

    id                               names the directory, wherever its numbers go
    {process}.alive                  locked (flock) for as long as the process lives: a reused pid isn't taken for it
    counter_{process}.db, …          what it counts; `gauge_{mode}_…` goes with it
    archive                          the counts of dead processes, and which files they are from
    merging                          locked by whoever merges
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from serve_app.telemetry.snapshot import Family, Snapshot

PREFIX = "embedserve_"
"""All families of this package begin so; what other libraries count in the same process is theirs."""

READ_ATTEMPTS = 20


class MetricsDirectory:
    """One directory; it is made when it's first written to. Raises OSError as files do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The same for everyone who sees this directory, and for no other one."""
        file = self.path / "id"
        with contextlib.suppress(FileNotFoundError):
            return file.read_text()
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.path / f"id.{uuid.uuid4().hex}"
        draft.write_text(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)  # unlike a rename, not over one that somebody else has made meanwhile
        draft.unlink()
        return file.read_text()

    def join(self) -> str:
        """A name for this process, alive from now until its end."""
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        file = self.path / f"{name}.alive"
        while True:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_ino == os.fstat(descriptor).st_ino:
                    return name  # never closed: the lock is what says that we live
            os.close(descriptor)  # somebody cleared it away before it was locked

    def alive(self, process: str) -> bool:
        """Whether the process of this name still runs."""
        try:
            descriptor = os.open(self.path / f"{process}.alive", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def read(self) -> Snapshot:
        """What all processes, dead or alive, have counted, and the gauges of the living."""
        for _ in range(READ_ATTEMPTS):
            archive = self._archive()
            snapshot, merged = parse_archive(archive)
            with contextlib.suppress(FileNotFoundError):
                for file in sorted(self.path.glob("*.db")):
                    if file.name not in merged and (not is_gauge(file) or self.alive(process_of(file))):
                        add_file(snapshot, file)
                if self._archive() == archive:
                    return snapshot
            # A process ended and was merged while we read.
        raise OSError(f"{self.path} changes too fast to be read")

    def merge_dead(self) -> None:
        """Put the counts of dead processes into the archive and clear their files away.

        To be ended at any moment: the archive, replaced in one step, says which files it holds, and those are read no more.
        """
        files = sorted(self.path.glob("*.db"))
        dead = {name for name in map(process_of, files) if not self.alive(name)}
        gone = [file for file in files if process_of(file) in dead]
        snapshot, merged = parse_archive(self._archive())
        fresh = [file for file in gone if file.name not in merged and not is_gauge(file)]
        if fresh:
            for file in fresh:
                add_file(snapshot, file)
            self._replace_archive(snapshot, [file.name for file in gone])
        for file in gone:
            file.unlink(missing_ok=True)
        for file in self.path.glob("*.alive"):
            if not list(self.path.glob(f"*_{file.stem}.db")):
                _unlink_unlocked(file)

    @contextlib.contextmanager
    def merging(self, patience: float = 1.0) -> Iterator[None]:
        """One at a time. Raises `TimeoutError` if another one is at it for longer than `patience` seconds."""
        deadline = time.monotonic() + patience
        with (self.path / "merging").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"another process holds {self.path}") from None
                    time.sleep(0.005)
            yield

    def _archive(self) -> bytes:
        try:
            return (self.path / "archive").read_bytes()
        except FileNotFoundError:
            return b""

    def _replace_archive(self, snapshot: Snapshot, merged: list[str]) -> None:
        header = json.dumps(merged).encode()
        draft = self.path / "archive.new"
        draft.write_bytes(struct.pack(">I", len(header)) + header + snapshot.encode())
        draft.replace(self.path / "archive")


def _unlink_unlocked(file: Path) -> None:
    """Remove a file unless a process holds its lock; nobody can take it meanwhile."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink()


def parse_archive(data: bytes) -> tuple[Snapshot, set[str]]:
    """The counts in an archive, and the names of the files they are from, as far as those may still be there."""
    if not data:
        return Snapshot(), set()
    [length] = struct.unpack_from(">I", data)
    return Snapshot.decode(data[4 + length :]), set(json.loads(data[4 : 4 + length]))


def process_of(file: Path) -> str:
    """The name of the process that a file is of."""
    return file.stem.rpartition("_")[2]


def is_gauge(file: Path) -> bool:
    """Whether a file holds gauges, which go with their process."""
    return file.name.startswith("gauge_")


def add_file(snapshot: Snapshot, file: Path) -> None:
    """Add what one process's file says. A process may be writing there, or have been killed while it made the file."""
    kind, _, mode = file.stem.rpartition("_")[0].partition("_")
    try:
        entries = list(MmapedDict.read_all_values_from_file(str(file)))
    except struct.error:
        return  # made, but nothing is in it yet
    for key, value, _, _ in entries:
        family, sample, labels, help_text = json.loads(key)
        if family.startswith(PREFIX):
            snapshot.put(Family(family, kind, help_text, mode), (sample, tuple(sorted(labels.items()))), value)
