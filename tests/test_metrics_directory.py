"""Counts that outlive the processes that counted, and whoever merges them: none is lost, none counts twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.telemetry.directory import MetricsDirectory, process_of
from tests.counting import COUNTED, counting, finished, killed, total


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        killed(process)


def files(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


def test_what_the_dead_and_the_living_have_counted(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    processes += [counting(tmp_path, times) for times in (30, 12)]
    for process, times in zip(processes, (30, 12), strict=True):
        finished(process, times)
    directory = MetricsDirectory(tmp_path)

    def shown() -> dict[str, float]:
        return {name: value for (name, _), value in directory.read().totals().items()}

    histogram = {
        "embedserve_size_bytes_count": 42.0,
        "embedserve_size_bytes_sum": sum(range(20)) + sum(range(11)) + 78.0,
    }
    everything = {"embedserve_seen_total": 42.0, **histogram}
    assert shown() == everything | {"embedserve_level": 4.0, "embedserve_peak": 30.0}
    killed(processes[0])
    assert shown() == everything | {"embedserve_level": 2.0, "embedserve_peak": 12.0}, "gauges go with their process"
    directory.merge_dead()
    assert shown() == everything | {"embedserve_level": 2.0, "embedserve_peak": 12.0}
    killed(processes[1])
    directory.merge_dead()
    assert shown() == everything
    assert files(tmp_path) == {"archive"}, "what is merged is cleared away"
    directory.merge_dead()
    assert shown() == everything


def test_a_histogram_adds_up_bucket_by_bucket(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    for times in (15, 3):
        processes.append(finished(counting(tmp_path, times), times))
        killed(processes[-1])
        MetricsDirectory(tmp_path).merge_dead()
    [metric] = [m for m in MetricsDirectory(tmp_path).read().metrics() if m.name == "embedserve_size_bytes"]
    buckets = {sample.labels["le"]: sample.value for sample in metric.samples if sample.name.endswith("_bucket")}
    assert buckets == {"1.0": 2.0, "10.0": 13.0, "+Inf": 18.0}


def test_killed_while_it_counts(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Everything said was counted, and at most one more: acknowledged <= counted <= acknowledged + in flight."""
    said = 0
    for stop in (1, 50, 400):
        process = counting(tmp_path, 10**9)
        processes.append(process)
        finished(process, stop)
        process.kill()
        assert process.stdout is not None
        rest = process.stdout.read().split()  # `communicate` would pass over what was read ahead
        said += int(rest[-1]) if rest else stop
        dead = len(processes)
        assert said <= total(tmp_path) <= said + dead
        MetricsDirectory(tmp_path).merge_dead()
        assert said <= total(tmp_path) <= said + dead


# Merges in a process of its own, which SIGKILLs itself before its n-th change of the file system.
MERGER = """
import os, signal, sys
from pathlib import Path
from serve_app.telemetry.directory import MetricsDirectory

left = int(sys.argv[2])

def audit(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(sys.argv[1]):
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

sys.addaudithook(audit)
MetricsDirectory(Path(sys.argv[1])).merge_dead()
"""


def test_a_merger_killed_before_each_of_its_steps(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    counted, step, deaths = 0, 0, 0
    while True:
        for times in (7, 5):
            processes.append(finished(counting(tmp_path, times), times))
            killed(processes[-1])
            counted += times
        result = subprocess.run([sys.executable, "-c", MERGER, str(tmp_path), str(step)], check=False)
        assert total(tmp_path) == counted, f"after death before step {step}"
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL
        step += 1
        deaths += 1
    assert deaths >= 5, "the archive's draft, its renaming, and the removal of files were all interrupted"
    assert files(tmp_path) == {"archive"}


def test_reading_while_processes_end_and_are_merged(tmp_path: Path) -> None:
    directory = MetricsDirectory(tmp_path)
    seen: list[float] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(total(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(6):
            killed(finished(counting(tmp_path, 20), 20))
            directory.merge_dead()
    finally:
        done.set()
        reader.join()
    assert len(seen) > 20
    assert seen == sorted(seen), "a sum went backwards"
    assert total(tmp_path) == 120


def test_a_living_process_is_never_merged(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    processes.append(finished(counting(tmp_path, 3), 3))
    directory = MetricsDirectory(tmp_path)
    os.kill(processes[0].pid, signal.SIGSTOP)
    before = files(tmp_path)
    directory.merge_dead()
    assert files(tmp_path) == before
    [name] = {process_of(tmp_path / file) for file in before if file.endswith(".db")}
    assert directory.alive(name)


def test_a_reused_pid_is_not_taken_for_a_living_process(tmp_path: Path) -> None:
    killed(finished(counting(tmp_path, 4), 4))
    [alive] = tmp_path.glob("*.alive")
    mine = f"{os.getpid()}-{alive.stem.partition('-')[2]}"
    for file in tmp_path.glob(f"*{alive.stem}*"):
        file.rename(tmp_path / file.name.replace(alive.stem, mine))
    assert not MetricsDirectory(tmp_path).alive(mine)


def test_a_file_that_was_only_just_made_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "counter_1-a.db").touch()
    (tmp_path / "counter_2-b.db").write_bytes(bytes(1 << 16))
    assert MetricsDirectory(tmp_path).read().totals() == {}


def test_what_other_libraries_count_stays_out(tmp_path: Path) -> None:
    killed(finished(counting(tmp_path, 1), 1))
    [file] = tmp_path.glob("counter_*.db")
    file.write_bytes(file.read_bytes().replace(b"embedserve_seen", b"otherthing_seen"))
    assert COUNTED not in MetricsDirectory(tmp_path).read().totals()


def test_its_id_is_its_own_and_stays(tmp_path: Path) -> None:
    first, second = MetricsDirectory(tmp_path / "a"), MetricsDirectory(tmp_path / "b")
    assert first.id == MetricsDirectory(tmp_path / "a").id != second.id


def test_one_merges_at_a_time(tmp_path: Path) -> None:
    directory = MetricsDirectory(tmp_path)
    with directory.merging(), pytest.raises(TimeoutError), MetricsDirectory(tmp_path).merging(patience=0.0):
        pass
    with directory.merging(patience=0.0):
        pass
