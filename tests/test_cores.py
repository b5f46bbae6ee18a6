"""Cores a replica may count on, whatever the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.cluster.cores import CoreClaim, threads_for, usable_cores
from serve_app.engine.model_config import QWEN3_EMBEDDING


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with 16 cores and no cgroup yet."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_all_that_the_process_may_run_on(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(machine) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert usable_cores(machine) == 2


def test_the_tightest_quota_on_the_way_up_counts(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/kube/pod\n")
    write(machine / "sys/fs/cgroup/kube/pod/cpu.max", "max 100000\n")
    assert usable_cores(machine) == 16
    write(machine / "sys/fs/cgroup/kube/cpu.max", "450000 100000\n")
    assert usable_cores(machine) == 4
    write(machine / "sys/fs/cgroup/kube/pod/cpu.max", "50000 100000\n")
    assert usable_cores(machine) == 1


def test_quotas_of_the_first_version(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "5:memory:/other\n1:cpu,cpuacct:/pod\n")
    write(machine / "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us", "300000\n")
    write(machine / "sys/fs/cgroup/cpu/pod/cpu.cfs_period_us", "100000\n")
    write(machine / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(machine / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(machine) == 3


def test_this_machine_has_cores() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("replicas", "num_cpus", "cores", "threads"),
    [(1, 1.0, 16, 16), (4, 1.0, 16, 4), (5, 0.5, 16, 3), (32, 1.0, 16, 1), (1, 6.0, 16, 6), (1, 8.0, 4, 4)],
)
def test_threads_are_what_ray_reserved_or_a_fair_share(
    replicas: int, num_cpus: float, cores: int, threads: int
) -> None:
    parameters = QWEN3_EMBEDDING["0.6B"].linear_parameters
    assert threads_for(parameters, replicas, num_cpus, cores) == threads


def test_a_small_model_has_one_thread() -> None:
    assert threads_for(900_000, 1, 8.0, 16) == 1


HOLD = """
import sys
from pathlib import Path
from serve_app.cluster.cores import CoreClaim
claim = CoreClaim(1, Path(sys.argv[1]))
claim.pin()
print(*claim.cores, flush=True)
sys.stdin.read()
"""


def test_each_replica_has_cores_of_its_own_until_it_dies(tmp_path: Path) -> None:
    first = min(os.sched_getaffinity(0))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() == [str(first)]
        assert os.sched_getaffinity(holder.pid) == {first}
        assert first not in CoreClaim(1, tmp_path).cores
    finally:
        holder.kill()
        holder.communicate()
    assert CoreClaim(1, tmp_path).cores == {first}


def test_none_where_all_are_taken(tmp_path: Path) -> None:
    claims = [CoreClaim(1, tmp_path) for _ in os.sched_getaffinity(0)]
    assert len({min(claim.cores) for claim in claims}) == len(claims)
    assert CoreClaim(1, tmp_path).cores == set()
    assert CoreClaim(10_000, tmp_path).cores == set()
