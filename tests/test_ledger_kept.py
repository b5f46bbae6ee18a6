"""The ledger over the ends of clusters: nothing is lost that need not be, and nothing counted twice, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.ledger import Ledger, recover
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.ledger import Used, latest, summed
from serve_app.telemetry.ledger_store import LedgerStore, Source, SqliteStore
from serve_app.telemetry.snapshot import Snapshot
from tests.counted import counted, total

__all__ = ["counted"]


class Memory:
    """A store in a dictionary that is away at times."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.away = False

    def load(self) -> dict[str, Source]:
        if self.away:
            raise OSError("away")
        return dict(self.sources)

    def save(self, sources: Mapping[str, Source]) -> None:
        if self.away:
            raise OSError("away")
        for id_, source in sources.items():
            known = self.sources.get(id_, Source("", {}))
            self.sources[id_] = Source(source.path or known.path, latest(known.rows, source.rows))


A = ("a", "m")


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteStore:
    return SqliteStore(str(tmp_path / "sub" / "ledger.db"))


def test_sqlite_keeps_the_largest_sums_of_each_source(sqlite: SqliteStore) -> None:
    assert sqlite.load() == {}
    sqlite.save(
        {"one": Source("/x", {A: Used(2, 3, 10)}), "two": Source("", {A: Used(1, 1, 1), ("b", "m"): Used(1, 1, 5)})}
    )
    sqlite.save({"one": Source("", {A: Used(1, 4, 9)})})
    sqlite.save({})
    assert sqlite.load() == {
        "one": Source("/x", {A: Used(2, 4, 10)}),
        "two": Source("", {A: Used(1, 1, 1), ("b", "m"): Used(1, 1, 5)}),
    }


def test_a_file_that_is_no_ledger_is_an_oserror(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something else" * 100)
    with pytest.raises(OSError, match=r"ledger\.db can't be read"):
        SqliteStore(str(path)).load()


def counts(directory: MetricsDirectory, program: str) -> subprocess.Popen[bytes]:
    """A process that counts in `directory`; its standard output says what it has acknowledged."""
    code = f"""
import sys
from pathlib import Path
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.process import count_in
count_in(MetricsDirectory(Path({str(directory.path)!r})))
from serve_app.telemetry.key_metrics import KeyMetrics
metrics = KeyMetrics()
{program}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


FOR_EVER = """
while True:
    metrics.billed("a", "m", 1, 3)
    sys.stdout.buffer.write(b".")
    sys.stdout.flush()
"""


def whole(ledger: Ledger, *directories: MetricsDirectory) -> Used:
    rows = asyncio.run(ledger.rows({directory.id: directory.read() for directory in directories}))
    return rows.get(A, Used())


def test_killed_and_started_again_nothing_is_lost_or_counted_twice(tmp_path: Path, sqlite: SqliteStore) -> None:
    """Three lives of a service, each ended by SIGKILL at work; the ledger was last stored at some moment before."""
    acknowledged = indeterminate = 0
    for life in range(3):
        directory = MetricsDirectory(tmp_path / f"session{life}")
        process = counts(directory, FOR_EVER)
        assert process.stdout is not None
        before = os.read(process.stdout.fileno(), 1)
        ledger = Ledger(sqlite, directory)
        # What a gateway does at its start, and then now and then.
        recover(sqlite)
        asyncio.run(ledger.save({directory.id: directory.read()}))
        before += os.read(process.stdout.fileno(), 200)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        assert before
        acknowledged += len(before + rest)
        indeterminate += 1
    last = MetricsDirectory(tmp_path / "session3")
    recover(sqlite)
    for _ in range(2):
        billed = whole(Ledger(sqlite, last), last).requests
        assert acknowledged <= billed <= acknowledged + indeterminate
        recover(sqlite)


def test_a_node_that_is_gone_with_its_disk_keeps_what_was_stored(sqlite: SqliteStore, tmp_path: Path) -> None:
    sqlite.save({"gone": Source(str(tmp_path / "nowhere"), {A: Used(5, 5, 15)})})
    recover(sqlite)
    assert whole(Ledger(sqlite)) == Used(5, 5, 15)


def test_a_directory_that_cannot_be_read_keeps_none_of_the_others_from_the_ledger(
    sqlite: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = MetricsDirectory(tmp_path / "broken"), MetricsDirectory(tmp_path / "sound")
    sqlite.save({broken.id: Source(str(broken.path), {A: Used(5, 5, 15)}), sound.id: Source(str(sound.path), {})})
    (broken.path / "archive").write_bytes(b"half")  # of a disk that was full, say
    counts(sound, "metrics.billed('a', 'm', 1, 3)").wait()
    recover(sqlite)
    assert whole(Ledger(sqlite)) == Used(6, 6, 18)
    assert str(broken.path) in caplog.text


async def test_a_store_that_fails_oddly_is_tried_again(
    counted: MetricsDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("serve_app.cluster.ledger.SAVE_SECONDS", 0.01)
    store, metrics = Memory(), KeyMetrics()
    metrics.billed("a", "m", 1, 3)
    odd = True

    def load() -> dict[str, Source]:
        if odd:
            raise RuntimeError("a defect")
        return {}

    monkeypatch.setattr(store, "load", load)
    ledger = Ledger(store, counted, metrics.ledger_failed)

    async def by_directory() -> dict[str, Snapshot]:
        return {counted.id: counted.read()}

    assert await ledger.rows(await by_directory()) == {A: Used(1, 1, 3)}
    task = asyncio.create_task(ledger.keep(by_directory))
    async with asyncio.timeout(30):
        while counted.id not in store.sources:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    assert total(counted, "ledger_failures_total") == 2
    assert caplog.text.count("The ledger's store failed: RuntimeError('a defect')") == 1


def test_a_directory_that_was_made_anew_is_another_source(sqlite: SqliteStore, tmp_path: Path) -> None:
    directory = MetricsDirectory(tmp_path / "again")
    counts(directory, "metrics.billed('a', 'm', 1, 3)").wait()
    sqlite.save({"an older one": Source(str(directory.path), {A: Used(5, 5, 15)})})
    recover(sqlite)
    assert whole(Ledger(sqlite, directory), directory) == Used(6, 6, 18)


def test_while_the_store_is_away_what_was_read_stays(
    caplog: pytest.LogCaptureFixture, counted: MetricsDirectory
) -> None:
    store = Memory()
    store.save({"before": Source("", {A: Used(5, 5, 15)})})
    metrics = KeyMetrics()
    ledger = Ledger(store, counted, metrics.ledger_failed)
    metrics.billed("a", "m", 1, 3)
    assert whole(ledger, counted) == Used(6, 6, 18)
    assert total(counted, "ledger_failures_total") == 0
    store.away = True
    metrics.billed("a", "m", 1, 3)
    assert whole(ledger, counted) == Used(7, 7, 21)
    asyncio.run(ledger.save({counted.id: counted.read()}))
    assert caplog.text.count("away") == 1
    assert total(counted, "ledger_failures_total") == 2
    store.away = False
    asyncio.run(ledger.save({counted.id: counted.read()}))
    assert store.sources[counted.id] == Source(str(counted.path), {A: Used(2, 2, 6)})


looks = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 3)), max_size=20)


@given(looks)
def test_in_whatever_order_looks_are_stored_the_ledger_is_the_latest_of_each_source(
    order: list[tuple[str, int]],
) -> None:
    store: LedgerStore = Memory()
    most: dict[str, int] = {}
    for source, look in order:
        store.save({source: Source("", {A: Used(look, look, look)})})
        most[source] = max(most.get(source, 0), look)
    total = summed(source.rows for source in store.load().values())
    assert total.get(A, Used()).requests == sum(most.values())
