"""Reading the JSON file of an earlier run."""

from __future__ import annotations

from pathlib import Path

import msgspec

from serve_app import __version__
from serve_app.errors import EmbedserveError
from serve_app.evals.result import FORMAT, Run


class StoredRunError(EmbedserveError):
    """The file isn't a run of `embedserve eval` that this version can read; the message says why and what to do."""


class _Stamp(msgspec.Struct):
    """As much of a run as every version of the format has."""

    version: str
    format: int = 1


def read(path: Path) -> Run:
    """The run that `embedserve eval` wrote there. Raises `StoredRunError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoredRunError(
            f"{path}: can't be read ({error.strerror or error}). Give the run.json of an earlier run."
        ) from None
    try:
        stamp = msgspec.json.decode(content, type=_Stamp)
    except msgspec.ValidationError:
        raise StoredRunError(
            f"{path}: is JSON, but not the run.json of `embedserve eval`: it doesn't say which version wrote it."
        ) from None
    except msgspec.DecodeError as error:
        raise StoredRunError(
            f"{path}: isn't JSON ({error}). Give the run.json of an earlier run, not its report."
        ) from None
    if stamp.format != FORMAT:
        raise StoredRunError(
            f"{path}: was written by embedserve {stamp.version} in format {stamp.format}; embedserve {__version__} reads format "
            f"{FORMAT}. Measure again with this version, or compare with that one."
        )
    try:
        return msgspec.json.decode(content, type=Run)
    except msgspec.ValidationError as error:
        raise StoredRunError(
            f"{path}: says that embedserve {stamp.version} wrote it, but something in it is damaged or missing: {error}. "
            "Measure again."
        ) from None
