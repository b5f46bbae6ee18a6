"""What is to be measured: `NAME=URL[,key-env=NAME][,price=USD_PER_1M][,hourly=USD][,model=ID][,dialect=openai|cohere]`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serve_app.bench.address import Address
from serve_app.bench.dialects import DIALECTS, Dialect

FORM = "NAME=URL[,key-env=NAME][,price=USD_PER_1M][,hourly=USD_PER_HOUR][,model=ID][,dialect=openai|cohere]"


class TargetError(ValueError):
    """A target that can't be understood, or whose key isn't there."""


@dataclass(frozen=True)
class Target:
    """A service. `price` is what it charges for a million of its own tokens, `hourly` what the machine it runs on costs an hour,
    both in US dollars. The key is in no representation of it."""

    name: str
    url: str
    dialect: Dialect
    model: str = ""
    price: float | None = None
    hourly: float | None = None
    key_env: str | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def address(self) -> Address:
        return Address.of(self.url)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def called(self, model: str) -> Target:
        """The same with a model."""
        return replace(self, model=model)

    def described(self) -> dict[str, object]:
        """Everything but the key."""
        return {
            "name": self.name,
            "url": self.url,
            "dialect": self.dialect.name,
            "model": self.model,
            "price_per_million": self.price,
            "hourly": self.hourly,
            "key_env": self.key_env,
        }

    @classmethod
    def of(cls, text: str, environment: Mapping[str, str]) -> Target:
        """Of the command line's text; the key is read from `environment`. Raises `TargetError`."""
        name, equals, rest = text.partition("=")
        url, *pairs = rest.split(",")
        if not (name and equals and url):
            raise TargetError(f"{text!r} isn't {FORM}")
        options = dict(_pair(pair, name) for pair in pairs)
        if len(options) != len(pairs):
            raise TargetError(f"{name}: an option is there twice")
        try:
            Address.of(url)
        except ValueError as error:
            raise TargetError(f"{name}: {error}") from error
        key_env = options.get("key-env")
        if key_env and not environment.get(key_env):
            raise TargetError(f"{name}: there is no key in the environment variable {key_env}")
        dialect = options.get("dialect", "openai")
        if dialect not in DIALECTS:
            raise TargetError(f"{name}: the dialect {dialect!r} isn't one of {', '.join(DIALECTS)}")
        return cls(
            name,
            url,
            DIALECTS[dialect],
            options.get("model", ""),
            _dollars(options, "price", name),
            _dollars(options, "hourly", name),
            key_env,
            environment[key_env].strip() if key_env else None,
        )


def _pair(text: str, name: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if key not in ("key-env", "price", "hourly", "model", "dialect") or not value:
        raise TargetError(f"{name}: {text!r} isn't understood; {FORM} is")
    return key, value


def _dollars(options: Mapping[str, str], key: str, name: str) -> float | None:
    if key not in options:
        return None
    try:
        value = float(options[key])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TargetError(f"{name}: {key}={options[key]} isn't a number of dollars")
    return value
