"""The gate: from an `Authorization` header to what its sender may do."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.access.grant import Entrance, KeyGrant
from serve_app.access.key import LONGEST
from serve_app.access.keys import Keys
from serve_app.access.limiter import Limiter
from serve_app.errors import InvalidKeyError, MissingKeyError

_SCHEME = b"bearer "
_LONGEST_HEADER = len(_SCHEME) + LONGEST


class Gate:
    """Asks the keys that are valid at this moment.

    `gateways` share out what each key may do at once. `on_refused` is told the name of the key and the limit: `requests`, `tokens`,
    `concurrent`.
    """

    def __init__(
        self,
        keys: Keys,
        limiter: Limiter,
        gateways: int = 1,
        on_refused: Callable[[str, str], None] = lambda name, limit: None,
    ) -> None:
        self._keys = keys
        self._entrance = Entrance(limiter, gateways, on_refused)

    def identify(self, authorization: bytes | None) -> KeyGrant:
        """What the sender of this header may do. Raises `MissingKeyError` and `InvalidKeyError`, constant ones."""
        if authorization is None:
            raise MissingKeyError
        if len(authorization) > _LONGEST_HEADER or authorization[: len(_SCHEME)].lower() != _SCHEME:
            # Clients that have been given no key send the scheme alone.
            raise MissingKeyError if authorization.strip().lower() in (b"", b"bearer") else InvalidKeyError
        secret = authorization[len(_SCHEME) :].strip(b" ")
        if not secret:
            raise MissingKeyError
        key = self._keys.ring.find(secret)
        if key is None:
            raise InvalidKeyError
        return KeyGrant(key, self._entrance)
