"""An API key: its secret, its hash, and what it allows.

Keys have 256 random bits, so one round of SHA-256 is enough: nobody can try them all. A slow hash like bcrypt makes up for
passwords that can be guessed, which these can't, and would cost every request a tenth of a second.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import NamedTuple

REQUESTS, TOKENS = "requests", "tokens"

HASH = r"^sha256:[0-9a-f]{64}\Z"
"""What a hash looks like in files and settings."""

PREFIX = "es-"
"""What new keys begin with, so that scanners for leaked secrets can find them."""

LONGEST = 256
"""Bytes of a key. Nothing longer is looked at."""


class Ask(NamedTuple):
    """`amount` more of what the `kind` of limit, `requests` or `tokens`, counts for the key `name`; 0 only to see how it is.

    `limit` is that of the whole service.
    """

    name: str
    kind: str
    limit: int
    amount: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of one key; the secret itself isn't.

    `name` goes into logs and metrics. `hashes` are several while a secret is being replaced. Limits are None where there is none;
    those by the minute hold for any 60 seconds. `bulk`: its requests yield to interactive work, whatever they ask for. `models` are
    ids, or last parts of ids, in lower case. `admin`: it sees what others have used. `asks` is what each of its requests asks for.
    """

    name: str
    hashes: tuple[str, ...]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    bulk: bool = False
    models: frozenset[str] | None = None
    admin: bool = False
    asks: tuple[Ask, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        asks = []
        if self.requests_per_minute is not None:
            asks.append(Ask(self.name, REQUESTS, self.requests_per_minute, 1))
        if self.tokens_per_minute is not None:
            asks.append(Ask(self.name, TOKENS, self.tokens_per_minute, 0))
        object.__setattr__(self, "asks", tuple(asks))

    def allows(self, model: str) -> bool:
        """Whether it may use the model with this id."""
        if self.models is None:
            return True
        served = model.lower()
        return served in self.models or served.rpartition("/")[2] in self.models


class KeyRing:
    """Some keys, to be found by their secrets. Raises ValueError if two have the same name or hash."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.keys: dict[str, ApiKey] = {}
        self._by_hash: dict[bytes, tuple[bytes, ApiKey]] = {}
        for key in keys:
            if key.name in self.keys:
                raise ValueError(f"there are two keys named {key.name}")
            self.keys[key.name] = key
            for written in key.hashes:
                digest = bytes.fromhex(written.removeprefix("sha256:"))
                if digest in self._by_hash:
                    raise ValueError(f"{key.name} has the hash of {self._by_hash[digest][1].name}")
                self._by_hash[digest] = (digest, key)

    def find(self, secret: bytes) -> ApiKey | None:
        """The key with this secret.

        How long it takes says nothing about the secrets there are: what is looked up and compared, in constant time, are hashes,
        and nobody can choose what those begin with.
        """
        digest = hashlib.sha256(secret).digest()
        known, key = self._by_hash.get(digest, (b"", None))
        return key if compare_digest(known, digest) else None


def hashed(secret: str) -> str:
    """A key as it stands in files and settings."""
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """A new key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)
