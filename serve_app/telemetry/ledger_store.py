"""Where the ledger outlasts the cluster: what each source has counted, in a SQLite file (`ledger_redis` has the other place).

A source is one directory in which processes count (`MetricsDirectory`), known by its id. What is stored of it are its own sums, which
only grow, so that storing the same look twice, late or from two gateways counts nothing twice. All sources together are the ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from serve_app.telemetry.ledger import Rows, Used

BUSY_SECONDS = 2.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (id TEXT PRIMARY KEY, path TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS used (
  source TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
  requests REAL NOT NULL, inputs REAL NOT NULL, prompt_tokens REAL NOT NULL,
  PRIMARY KEY (source, key, model)
);
"""

_NAME = """
INSERT INTO sources VALUES (?, ?) ON CONFLICT DO UPDATE SET path = excluded.path WHERE excluded.path != ''
"""

_SAVE = """
INSERT INTO used VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  requests = max(requests, excluded.requests), inputs = max(inputs, excluded.inputs),
  prompt_tokens = max(prompt_tokens, excluded.prompt_tokens)
"""


class Source(NamedTuple):
    """What one directory has counted, and where it is on its node, "" for unknown."""

    path: str
    rows: Rows


class LedgerStore(Protocol):
    """Both methods block, and raise OSError if the store can't be reached."""

    def load(self) -> dict[str, Source]:
        """All sources by their id."""

    def save(self, sources: Mapping[str, Source]) -> None:
        """Keep these sums where they are larger than what is there; in one step."""


class SqliteStore:
    """A file on a local disk. Raises OSError if it can't be used."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser()

    def load(self) -> dict[str, Source]:
        """See `LedgerStore`."""
        try:
            with closing(self._open()) as database:
                found = {id_: Source(path, {}) for id_, path in database.execute("SELECT id, path FROM sources")}
                for id_, key, model, *used in database.execute("SELECT * FROM used"):
                    found[id_].rows[key, model] = Used(*used)
        except sqlite3.Error as error:
            raise OSError(f"The ledger {self._path} can't be read: {error}") from None
        return found

    def save(self, sources: Mapping[str, Source]) -> None:
        """See `LedgerStore`."""
        try:
            with closing(self._open()) as database, database:
                database.executemany(_NAME, [(id_, source.path) for id_, source in sources.items()])
                database.executemany(
                    _SAVE,
                    [
                        (id_, *account, *used)
                        for id_, source in sources.items()
                        for account, used in source.rows.items()
                    ],
                )
        except sqlite3.Error as error:
            raise OSError(f"The ledger {self._path} can't be written: {error}") from None

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
        # Readers and one writer at a time; a power cut costs at most what was written last, and that is written again.
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(_SCHEMA)
        return database
