"""The options after a target: `key=value`, each checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Self
from urllib.parse import urlsplit


class Options:
    """By name, as given. Its methods raise ValueError that says what is wrong."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    @classmethod
    def of(cls, pairs: Iterable[str], known: frozenset[str], kind: str) -> Self:
        """Of `key=value` texts. Each of `known` may be there once."""
        values: dict[str, str] = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key not in known or not value:
                listed = ", ".join(f"{each}=…" for each in sorted(known)) or "none"
                raise ValueError(f"{pair!r} isn't understood; options of such a target ({kind}): {listed}")
            if key in values:
                raise ValueError(f"{key} is there twice")
            values[key] = value
        return cls(values)

    def text(self, key: str) -> str:
        return self.values.get(key, "")

    def url(self) -> str:
        return self.checked_url(self.values["url"]) if "url" in self.values else ""

    def count(self, key: str) -> int | None:
        if key not in self.values:
            return None
        value = self.values[key]
        if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 2048):
            raise ValueError(f"{key}={value} isn't a number from 1 to 2048")
        return int(value)

    def dollars(self, key: str) -> float | None:
        if key not in self.values:
            return None
        try:
            value = float(self.values[key])
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise ValueError(f"{key}={self.values[key]} isn't a number of dollars")
        return value

    def one_of(self, key: str, only: str) -> bool:
        """Whether it is set; `only` is the one value it can have."""
        if self.values.get(key, only) != only:
            raise ValueError(f"{key}={self.values[key]} isn't understood; {key}={only} is")
        return key in self.values

    def key(self, environment: Mapping[str, str], usual: str | None) -> tuple[str | None, str | None]:
        """The name of the environment variable with the API key, and the key; `usual` is the name where none is given."""
        name = self.values.get("key-env", usual)
        if name is None:
            return None, None
        if not environment.get(name, "").strip():
            raise ValueError(f"there is no key in the environment variable {name}")
        return name, environment[name].strip()

    @staticmethod
    def checked_url(url: str) -> str:
        """`url` without a slash at its end. A password or a query is refused: such things hold secrets, and URLs are printed."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} isn't an http URL")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"the URL of {parts.hostname} has more than a host, a port and a path")
        return url.rstrip("/")
