"""How many CPU cores a replica may count on, and which."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

# Below this, handing work to a second thread costs about what it saves (measured: 0.9M parameters served 1.17x by one).
SMALL_PARAMETERS = 20_000_000


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: those it may run on, and no more than its cgroups' quotas pay for.

    `os.cpu_count()` is the machine's, whatever part of it a container was given. `root` is for tests.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def threads_for(parameters: int, replicas: int, num_cpus: float, cores: int) -> int:
    """torch threads of one of `replicas` on a node of so many usable `cores`, of which Ray reserved `num_cpus` for it.

    Above 1, `num_cpus` was chosen and counts as it is; else the replicas share the cores. A model with few linear `parameters` isn't
    worth splitting.
    """
    if parameters < SMALL_PARAMETERS:
        return 1
    return max(1, min(cores, int(num_cpus) if num_cpus > 1 else cores // replicas))


class CoreClaim:
    """Cores of this node that no other replica has claimed; claimed until the process ends, however it does."""

    def __init__(self, threads: int, folder: Path | None = None) -> None:
        """Of the cores that this process may run on, the first free group of `threads`; `cores` is empty where none is left.

        Groups go by the cores' numbers, which neighbours on one NUMA node share. Claims are locks on files in `folder`, default one of
        this user's in the machine's folder for temporary files.
        """
        self.cores: set[int] = set()
        folder = folder or Path(tempfile.gettempdir()) / f"embedserve-cores-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        allowed = sorted(os.sched_getaffinity(0))
        for begin in range(0, len(allowed) - threads + 1, threads):
            group = allowed[begin : begin + threads]
            files = [(folder / f"{core}.lock").open("w") for core in group]
            try:
                for file in files:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                for file in files:
                    file.close()
                continue
            self._files, self.cores = files, set(group)
            return

    def pin(self) -> None:
        """Keep all threads of this process, and those to come, on the claimed cores."""
        for task in Path("/proc/self/task").iterdir():
            try:
                os.sched_setaffinity(int(task.name), self.cores)
            except ProcessLookupError:
                continue  # it has just ended


def pin_to_own_cores(threads: int) -> set[int]:
    """Keep this process on so many cores that no other replica has; none, and nothing is pinned, where too few are left."""
    claim = CoreClaim(threads)
    if claim.cores:
        claim.pin()
        _claims.append(claim)
    return claim.cores


_claims: list[CoreClaim] = []  # held as long as the process lives


def _quotas(root: Path) -> list[float]:
    """Cores' worth of time a period that this process's cgroups allow, from the innermost outwards; those without limit left out."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inner = top / path.lstrip("/")
        for group in [inner, *inner.parents]:
            if not group.is_relative_to(top):
                break
            found += _limit(group)
    return found


def _limit(group: Path) -> list[float]:
    """Of one cgroup, in version 2's file or version 1's."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        return [float(quota) / float(period)] if quota.strip() not in {"max", "-1"} else []
    except (OSError, ValueError):
        return []
