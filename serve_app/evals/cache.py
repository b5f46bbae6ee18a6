"""Vectors that targets have given, kept on disk, so that a run that was stopped goes on where it was and the next one costs nothing.

One SQLite file. Texts aren't in it: a vector is found by a SHA-256 of the target, the model, what precedes the text, and the text.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from serve_app.errors import EmbedserveError
from serve_app.evals.encoder import Vectors

FILE = "embeddings.sqlite"
SAME = 0.9999
"""Cosine from which on two vectors of the probe count as the same model's: beyond what bfloat16 and other batches change, and below
what other weights or a quantisation to int8 do."""

_TABLES = """
CREATE TABLE IF NOT EXISTS models (digest BLOB, generation INTEGER, probe BLOB, PRIMARY KEY (digest, generation)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB, tokens REAL) WITHOUT ROWID;
"""


class CacheError(EmbedserveError):
    """The folder can't hold the file, or the file there isn't one of ours."""


class Kept(NamedTuple):
    """A vector, float32 of shape [d], and its share of the tokens that its request was charged; None where none were told."""

    vector: Vectors
    tokens: float | None


class Cache:
    """In `folder`, or in memory where that is None. For one thread."""

    def __init__(self, folder: Path | None) -> None:
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / FILE).touch(mode=0o600)
            self._file = sqlite3.connect(":memory:" if folder is None else folder / FILE, timeout=60)
            # A batch is there for good when it is committed, unless the machine itself goes down.
            self._file.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _TABLES)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"--cache {folder}: no embeddings can be kept there ({error}). Choose another folder, or use --no-cache."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def model(self, identity: dict[str, object], probe: Vectors) -> bytes:
        """What keys of this model start from. `probe` is its vector of a fixed text, asked for just now: where it isn't what it was,
        other weights go by the same name, and nothing that is kept of them is used."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
        rows = self._file.execute("SELECT generation, probe FROM models WHERE digest = ?", (digest,)).fetchall()
        for generation, known in rows:
            if same(np.frombuffer(known, "<f4"), probe):
                return _start(digest, generation)
        with self._file:
            self._file.execute(
                "INSERT OR IGNORE INTO models VALUES (?, ?, ?)", (digest, len(rows), probe.astype("<f4").tobytes())
            )
        return _start(digest, len(rows))

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Kept]:
        """Those of `keys` that are kept."""
        found: dict[bytes, Kept] = {}
        for key in keys:
            row = self._file.execute("SELECT vector, tokens FROM vectors WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = Kept(np.frombuffer(row[0], "<f4").astype(np.float32), row[1])
        return found

    def put(self, rows: Iterable[tuple[bytes, Kept]]) -> None:
        """All of them, or none if the process ends meanwhile."""
        values = [(key, kept.vector.astype("<f4").tobytes(), kept.tokens) for key, kept in rows]
        with self._file:
            self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", values)


def same(one: Vectors, other: Vectors) -> bool:
    """Whether two vectors of the probe, float32 [d], count as one model's."""
    return one.shape == other.shape and float(one @ other) >= SAME


def key_of(model: bytes, before: str, text: str) -> bytes:
    """Where the vector of `text` is kept; `model` is what `Cache.model` gave, and `before` what precedes the text."""
    return hashlib.sha256(model + _hashed(before) + _hashed(text)).digest()


def _start(digest: bytes, generation: int) -> bytes:
    return digest + generation.to_bytes(4, "big")


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
