"""The ledger of a gateway: what the cluster counts now, and what is stored of clusters before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from serve_app.config import LedgerSettings
from serve_app.errors import EmbedserveError
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.ledger import Rows, latest, rows_of, summed
from serve_app.telemetry.ledger_store import LedgerStore, Source, SqliteStore
from serve_app.telemetry.snapshot import Snapshot

logger = logging.getLogger(__name__)

SAVE_SECONDS = 5.0
"""How much may be missing of a node that is gone with its disk."""


class Ledger:
    """Without a `store` it is what the counters say. `own` is where this node counts; `on_failed` is told of every time that the store
    couldn't be read or written."""

    def __init__(
        self,
        store: LedgerStore | None = None,
        own: MetricsDirectory | None = None,
        on_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._on_failed = on_failed
        self._own = own
        self._stored: dict[str, Source] = {}
        self._complained = False

    async def rows(self, counted: Mapping[str, Snapshot]) -> Rows:
        """Everything that was ever counted, by key and model. While the store can't be reached, what was last read there is taken."""
        now = {id_: rows_of(snapshot.totals()) for id_, snapshot in counted.items()}
        await self._try(self._load)
        before = {id_: source.rows for id_, source in self._stored.items()}
        return summed(latest(now.get(id_, {}), before.get(id_, {})) for id_ in now.keys() | before.keys())

    async def save(self, counted: Mapping[str, Snapshot]) -> None:
        """Store what is counted now."""
        own = self._own.id if self._own is not None and self._own.path.exists() else ""
        sources = {
            id_: Source(str(self._own.path) if self._own is not None and id_ == own else "", rows)
            for id_, snapshot in counted.items()
            if (rows := rows_of(snapshot.totals()))
        }
        await self._try(lambda store: store.save(sources))

    async def keep(self, counted: Callable[[], Awaitable[Mapping[str, Snapshot]]]) -> None:
        """Store again and again, until cancelled; first what directories of this node have that nobody stored to the end."""
        if self._store is None:
            return
        await self._try(recover)
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await self.save_now(counted)

    async def save_now(self, counted: Callable[[], Awaitable[Mapping[str, Snapshot]]]) -> None:
        """Store what is counted now, if there is a store; doesn't raise."""
        if self._store is None:
            return
        try:
            await self.save(await counted())
        except Exception as error:
            self._on_failed()
            logger.warning("The ledger could not be kept: %r", error)

    def _load(self, store: LedgerStore) -> None:
        self._stored = store.load()

    async def _try(self, work: Callable[[LedgerStore], None]) -> None:
        if self._store is None:
            return
        try:
            await asyncio.to_thread(work, self._store)
            self._complained = False
        except Exception as error:
            # Others than OSErrors are defects, and no reason to store nothing from now on.
            self._on_failed()
            if not self._complained:
                logger.error("%s", error if isinstance(error, OSError) else f"The ledger's store failed: {error!r}")
            self._complained = True


def recover(store: LedgerStore) -> None:
    """Store what is in directories whose processes were killed before they, or anybody, could; one that can't be read keeps none of
    the others from it. Raises OSError."""
    found = {}
    for id_, source in store.load().items():
        path = Path(source.path)
        try:
            if not source.path or not (path / "id").exists() or (path / "id").read_text() != id_:
                continue  # of another node, or cleared away
            rows = rows_of(MetricsDirectory(path).read().totals())
        except Exception as error:
            logger.error(
                "What was counted in %s can't be read, so the ledger may lack its last seconds: %r", path, error
            )
            continue
        if latest(source.rows, rows) != source.rows:
            found[id_] = Source(source.path, rows)
    store.save(found)


def store_of(settings: LedgerSettings, application: str) -> LedgerStore | None:
    """The store that the settings name. Raises `EmbedserveError` without `embedserve[redis]`."""
    if settings.path is not None:
        return SqliteStore(settings.path)
    if settings.redis_url is None:
        return None
    try:
        from serve_app.telemetry.ledger_redis import RedisStore  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise EmbedserveError("ledger.redis_url needs the extra: pip install 'embedserve[redis]'") from error
    return RedisStore(settings.redis_url, application)
