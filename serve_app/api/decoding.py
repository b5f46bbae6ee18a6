"""From a JSON body to a dialect's request struct, and from msgspec's complaints to errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, NoReturn, TypeVar

import msgspec

from serve_app.api.body import why_unreadable
from serve_app.errors import InvalidRequestError

T = TypeVar("T")

_FIELD = re.compile(r" - at `\$\.([\w.]+)[^`]*`$")
_NAMED = re.compile(r"^Object (contains unknown|missing required) field `(.*?)`(?: - at `\$\.([\w.]+)`)?$", re.DOTALL)


class BodyDecoder(Generic[T]):
    """Decodes bodies of one kind.

    `rules` says of each field, by its dotted path, what it must be; `instead`, of fields that this server doesn't have, what to do
    without them; `whole`, what a body that is no object lacks.
    """

    def __init__(self, struct: type[T], rules: Mapping[str, str], whole: str, instead: Mapping[str, str] = {}) -> None:
        self._decoder = msgspec.json.Decoder(struct)
        self._rules = rules
        self._whole = whole
        self._instead = instead

    def decode(self, body: bytes) -> T:
        """The request in `body`. Raises `InvalidRequestError` with the field in `param`; what the caller sent isn't quoted."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            self._invalid(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(body, error) from None

    def _invalid(self, said: str) -> NoReturn:
        named = _NAMED.match(said)
        if named is not None:
            kind, name, place = named.groups()
            path = f"{place}.{name[:64]}" if place else name[:64]
            if kind == "missing required":
                raise InvalidRequestError(f"You must provide '{path}'.", path) from None
            instead = self._instead.get(path, "Remove it.")
            raise InvalidRequestError(f"The field '{path}' is not supported. {instead}", path) from None
        field = _FIELD.search(said)
        if field is None:
            raise InvalidRequestError(self._whole) from None
        raise InvalidRequestError(f"'{field[1]}' {self._rules[field[1]]}.", field[1]) from None


def unreadable(body: bytes, error: Exception) -> InvalidRequestError:
    """The error for a body, or a part of one, that a JSON decoder gave up on with `error`."""
    why = why_unreadable(body, error)
    return InvalidRequestError(f"We could not parse the JSON body of your request: {why}.")
