"""Compiles this package's C++ for the CPU it runs on, once a machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_SECONDS = 120
_FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
_NATIVE = {"x86_64": ["-march=native", "-mprefer-vector-width=512"], "aarch64": ["-mcpu=native"]}


class BuildError(Exception):
    """The source can't be compiled here; says why and what would help."""


def build(source: str, cache_dir: Path | None = None, compilers: tuple[str, ...] = ("g++", "clang++", "c++")) -> Path:
    """The shared library made from `source`, a file beside this one.

    It is kept in `cache_dir`, default `~/.cache/embedserve`, under a name that changes with the source, the compiler and the CPU.
    Many processes may ask at once. Raises `BuildError`.
    """
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        raise BuildError(
            f"no C++ compiler ({', '.join(compilers)}) is installed; g++ from the system's packages is enough"
        )
    file = Path(__file__).with_name(source)
    flags = [*_FLAGS, *_NATIVE.get(platform.machine(), [])]
    made_for = [file.read_text(encoding="utf-8"), *flags, _run([compiler, "--version"]), _cpu()]
    name = f"{file.stem}-{hashlib.sha256(chr(0).join(made_for).encode()).hexdigest()[:16]}.so"
    parent = cache_dir if cache_dir is not None else _kept_in()
    library = parent / name
    if library.is_file():
        return library
    try:
        parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=".kernels-", suffix=".so", dir=parent)
    except OSError as error:
        raise BuildError(f"{parent} can't be written to ({error})") from error
    os.close(handle)
    try:
        _run([compiler, *flags, str(file), "-o", aside])
        Path(aside).replace(library)  # whole or not at all, whoever else does the same
    finally:
        Path(aside).unlink(missing_ok=True)
    return library


def _kept_in() -> Path:
    try:
        return Path.home() / ".cache" / "embedserve"
    except RuntimeError as error:  # in a container, say, whose user isn't in its list of users
        raise BuildError(f"there is no home folder to keep them in ({error}); setting HOME is enough") from error


def _cpu() -> str:
    """What the CPU can do, so that a home folder on several machines keeps a library for each kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise BuildError(f"{command[0]} failed: {''.join(said)}") from error
