"""Bad requests in endless variety, the same for the same seed: made from the service's own OpenAPI document, then broken.

A request that the schema allows is made first. Then one thing in its JSON is replaced, left out, wrapped, buried or added; or it stays
and a header is odd; or its bytes are damaged. Some come out allowed all the same.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from loadtest.fuzz_values import HEADERS, NUMBERS, PIECES, WORDS

MARK = "Xq7-private-words"
"""In every text, so that a reply that quotes one is found out."""

_TEXTS = frozenset({"input", "inputs", "texts", "text", "source_sentence", "sentences", "instruction"})

# Written into JSON without quotes: numbers that `json` itself doesn't write.
_RAW = re.compile(rb'"@raw (.*?)@"')


@dataclass(frozen=True, slots=True)
class BadInput:
    """A request. `whole` is whether its JSON is as it was written, so that `MARK` is in texts only, where errors never quote it."""

    path: str
    headers: tuple[tuple[str, bytes], ...]
    body: bytes
    whole: bool

    def with_key(self, secret: bytes) -> BadInput:
        """The same with an API key, unless it has an odd one."""
        if any(name == "authorization" for name, _ in self.headers):
            return self
        return replace(self, headers=(*self.headers, ("authorization", b"Bearer " + secret)))


class Generator:
    """Requests for every route of `document` that takes a body. `model` is the served id."""

    def __init__(self, document: dict[str, Any], model: str, seed: int) -> None:
        self._schemas = document["components"]["schemas"]
        self._model = model
        self._random = random.Random(seed)
        self._bodies: dict[str, dict[str, Any]] = {}
        for path, operations in document["paths"].items():
            if (body := operations.get("post", {}).get("requestBody")) is not None:
                self._bodies[path] = body["content"]["application/json"]["schema"]
        self.paths = [*self._bodies]

    def __iter__(self) -> Iterator[BadInput]:
        while True:
            yield self.one()

    def one(self) -> BadInput:
        """The next."""
        draw = self._random
        path = draw.choice(self.paths)
        value = self._value(self._bodies[path], "")
        headers: list[tuple[str, bytes]] = []
        kind = draw.random()
        if kind < 0.1:
            name = draw.choice([*HEADERS])
            headers.append((name, draw.choice(HEADERS[name])))
        if 0.08 < kind < 0.7:
            for _ in range(draw.choice((1, 1, 1, 2, 4))):
                value = self._broken(value)
        body = _RAW.sub(rb"\1", json.dumps(value).encode())
        if kind < 0.7:
            return BadInput(path, tuple(headers), body, True)
        for _ in range(draw.choice((1, 1, 2, 8))):
            body = self._damaged(body)
        return BadInput(path, (), body, False)

    def _value(self, schema: dict[str, Any], name: str) -> Any:  # noqa: PLR0911 - one for each kind
        """What the schema allows, or nearly."""
        draw = self._random
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], name)
        if "anyOf" in schema:
            return self._value(draw.choice(schema["anyOf"]), name)
        if "enum" in schema:
            return draw.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        kind = schema.get("type")
        if kind == "object":
            wanted = schema.get("required", [])
            if "oneOf" in schema:
                wanted = [*wanted, *draw.choice(schema["oneOf"])["required"]]
            return {
                field: self._value(inner, field)
                for field, inner in schema.get("properties", {}).items()
                if field in wanted or draw.random() < 0.1
            }
        if kind == "array":
            return [self._value(schema["items"], name) for _ in range(draw.randint(1, 3))]
        if kind == "integer":
            low = schema.get("minimum", 0)
            return draw.randint(low, min(schema.get("maximum", 1200), 1200))
        if kind == "string":
            return self._model if name == "model" else self._text(name)
        return {"boolean": draw.random() < 0.5, "number": draw.random()}.get(str(kind))

    def _text(self, name: str) -> str:
        return (MARK if name in _TEXTS else "") + self._random.choice(
            ["a", "some words", "中文", "🙂", "x" * 100, *WORDS]
        )

    def _junk(self, name: str) -> Any:  # noqa: PLR0911 - one for each kind
        draw = self._random
        kind = draw.randrange(40)
        if kind < 14:
            return draw.choice(NUMBERS)
        if kind < 22:
            return self._text(name)
        if kind < 28:
            return draw.choice(
                [None, True, False, [], {}, [[]], [None], {"": 1}, [{}], [""], [[1], "a"], ["a", 1], [1, 0.5]]
            )
        if kind < 32:
            return [self._junk(name) for _ in range(draw.randrange(5))]
        if kind < 35:
            return [draw.choice(NUMBERS) for _ in range(draw.randrange(1, 30))]
        if kind < 38:
            return _buried(draw.choice([None, 1, "a"]), draw.choice((2, 20, 900)), draw.random() < 0.5)
        # The large ones are rare, for the sake of all others.
        if draw.random() < 0.9:
            return ["a"] * draw.choice((97, 513, 2049))
        return draw.choice(
            [
                lambda: (MARK if name in _TEXTS else "") + "w" * 10**6,
                lambda: [7] * 300_001,
                lambda: [[1]] * 3000,
                lambda: ["é" * 20_000] * 50,
            ]
        )()

    def _broken(self, value: Any, name: str = "") -> Any:  # noqa: PLR0911 - one for each kind
        """`value` with one thing in it otherwise."""
        draw = self._random
        if isinstance(value, dict) and value and draw.random() < 0.9:
            kind = draw.random()
            if kind < 0.1:
                return {
                    **value,
                    draw.choice(["x", "", "n", "api_base", "\ud800", "x" * 5000, "__proto__"]): self._junk("x"),
                }
            field = draw.choice([*value])
            if kind < 0.2:
                return {key: kept for key, kept in value.items() if key != field}
            return {**value, field: self._broken(value[field], field)}
        if isinstance(value, list) and value and draw.random() < 0.6:
            place = draw.randrange(len(value))
            return [*value[:place], self._broken(value[place], name), *value[place + 1 :]]
        kind = draw.random()
        if kind < 0.1:
            return [value]
        if kind < 0.15:
            return {draw.choice(["", "text", "0"]): value}
        return self._junk(name)

    def _damaged(self, body: bytes) -> bytes:  # noqa: PLR0911 - one for each kind
        draw = self._random
        start = draw.randrange(len(body) + 1)
        stop = min(len(body), start + draw.randrange(8))
        kind = draw.randrange(7)
        if kind == 0:
            return body[:start]
        if kind == 1:
            return body[:start] + body[stop:]
        if kind == 2:
            return body[:start] + body[start:stop] * draw.randrange(1, 50) + body[stop:]
        if kind == 3:
            return body[:start] + draw.randbytes(stop - start) + body[stop:]
        if kind == 4:
            return (
                body[:start]
                + draw.choice((b"[", b'{"a":', b"\\", b"9")) * draw.choice((10, 1000, 20_000))
                + body[stop:]
            )
        if kind == 5:
            return draw.randbytes(draw.randrange(64))
        return body[:start] + draw.choice(PIECES) + body[stop:]


def _buried(value: Any, depth: int, in_lists: bool) -> Any:
    for _ in range(depth):
        value = [value] if in_lists else {"a": value}
    return value
