"""The ledger in Redis, for gateways on several machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from serve_app.telemetry.ledger import Used, latest
from serve_app.telemetry.ledger_store import BUSY_SECONDS, Source


class RedisStore:
    """A hash of sources. `application` keeps services that use one Redis apart."""

    def __init__(self, url: str, application: str) -> None:
        self._redis: Redis = Redis.from_url(url, socket_timeout=BUSY_SECONDS, socket_connect_timeout=BUSY_SECONDS)
        self._key = f"embedserve:{application}:ledger"

    def load(self) -> dict[str, Source]:
        """See `LedgerStore`."""
        try:
            found: Any = self._redis.hgetall(self._key)
            return {id_.decode(): _decode(data) for id_, data in found.items()}
        except (RedisError, ValueError, TypeError) as error:
            raise OSError(f"The ledger in Redis can't be read: {type(error).__name__}") from None

    def save(self, sources: Mapping[str, Source]) -> None:
        """See `LedgerStore`. Two gateways may save at once, so what is written is what was read, unless somebody wrote meanwhile."""

        def merge(pipe: Any) -> None:
            before = dict(zip(sources, pipe.hmget(self._key, list(sources)), strict=True))
            pipe.multi()
            for id_, source in sources.items():
                path, known = _decode(before[id_]) if before[id_] is not None else Source("", {})
                pipe.hset(self._key, id_, _encode(Source(source.path or path, latest(known, source.rows))))

        if not sources:
            return
        try:
            self._redis.transaction(merge, self._key)
        except (RedisError, ValueError, TypeError) as error:
            raise OSError(f"The ledger in Redis can't be written: {type(error).__name__}") from None


def _encode(source: Source) -> bytes:
    return json.dumps([source.path, [[*account, *used] for account, used in source.rows.items()]]).encode()


def _decode(data: bytes) -> Source:
    path, rows = json.loads(data)
    return Source(path, {(key, model): Used(*used) for key, model, *used in rows})
