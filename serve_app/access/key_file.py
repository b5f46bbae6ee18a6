"""The file with the keys: YAML or JSON, names and hashes and limits, no secrets.

keys:
  - name: search
    hash: sha256:b2ffe9eeacb55da6ab279f8fb23b10e02fb44d31673b0247853e1302da880682
    requests_per_minute: 600
    tokens_per_minute: 1000000
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from textwrap import indent
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from serve_app.access.key import HASH, ApiKey, KeyRing

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Hash = Annotated[str, Meta(pattern=HASH)]
Limit = Annotated[int, Meta(ge=1, le=10**12)] | None


class Entry(Struct, forbid_unknown_fields=True):
    """One key, as in the file."""

    name: Name
    hash: Hash | Annotated[list[Hash], Meta(min_length=1)]
    requests_per_minute: Limit = None
    tokens_per_minute: Limit = None
    max_concurrent: Limit = None
    priority: Literal["interactive", "bulk"] = "interactive"
    models: Annotated[list[str], Meta(min_length=1)] | None = None
    admin: bool = False
    disabled: bool = False

    def key(self) -> ApiKey:
        return ApiKey(
            self.name,
            (self.hash,) if isinstance(self.hash, str) else tuple(self.hash),
            self.requests_per_minute,
            self.tokens_per_minute,
            self.max_concurrent,
            self.priority == "bulk",
            None if self.models is None else frozenset(model.lower() for model in self.models),
            self.admin,
        )


class KeyFile(Struct, forbid_unknown_fields=True):
    """The whole file."""

    keys: list[Entry]


def add_key(path: Path | None, entry: Entry) -> str:
    """The entry as text for the file; it is put at the end of the one at `path`, if given, in one step, for its owner's eyes only.

    Raises ValueError if the name or anything else of the entry can't be used, or the file can't be used with it.
    """
    fields = {name: value for name, value in msgspec.to_builtins(entry).items() if value not in (None, False)}
    if entry.priority == "interactive":
        del fields["priority"]
    text = indent(msgspec.yaml.encode([fields]).decode(), "  ")
    if path is None:
        KeyRing(parse_keys(b"keys:\n" + text.encode()))
        return text
    try:
        before = path.read_text() if path.exists() else "keys:\n"
        # `keys: []` is a list already; what follows it would be another.
        before = re.sub(r"^keys:\s*\[\s*\]\s*$", "keys:", before, flags=re.MULTILINE)
        before += "" if before.endswith("\n") else "\n"
        KeyRing(parse_keys((before + text).encode()))
        descriptor, draft = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(before + text)
        Path(draft).replace(path.resolve())
    except OSError as error:
        raise ValueError(f"{path} can't be written: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} can't be used with that key: {error}") from None
    return text


def parse_keys(text: bytes) -> list[ApiKey]:
    """The keys in a file that aren't disabled. Raises ValueError, with the place of what is wrong and never its content."""
    try:
        file = msgspec.yaml.decode(text, type=KeyFile)
    except msgspec.ValidationError as error:
        bare = str(error) == "Expected `object`, got `array`"
        raise ValueError("its entries must stand under `keys:`" if bare else str(error)) from None
    except msgspec.DecodeError as error:
        # The parser's own message quotes the line, which may hold a secret that was put there by mistake.
        mark = getattr(error.__context__, "problem_mark", None)
        raise ValueError(f"it isn't YAML{f', from line {mark.line + 1} on' if mark is not None else ''}") from None
    return [entry.key() for entry in file.keys if not entry.disabled]


def read_keys(path: str | Path) -> list[ApiKey]:
    """The keys in the file at `path`. Raises ValueError, naming the file, if there is none or it can't be used."""
    try:
        return parse_keys(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"The file of API keys {path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"The file of API keys {path} can't be used: {error}") from None
