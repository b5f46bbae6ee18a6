"""Reads texts to evaluate with, shipped or a user's own, from JSON lines or CSV. Nothing malformed is passed over."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

SHIPPED = Path(__file__).parent / "data"
SHOWN = 50
_MARK = b"\xef\xbb\xbf"  # a byte order mark, which spreadsheets put first

Row = TypeVar("Row", bound=msgspec.Struct)


class DataError(ValueError):
    """What is wrong with a folder of texts: all of it, a line `file:line: what` each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        shown = problems[:SHOWN]
        if len(problems) > SHOWN:
            shown.append(f"and {len(problems) - SHOWN} more")
        super().__init__("\n".join(shown))


class Folder:
    """The files of one suite. Problems are collected, so that a user sees all of them at once: call `finish` at the end.

    `read("queries", Query)` takes `queries.jsonl` or `queries.csv` (UTF-8, a byte order mark allowed; CSV with a header line). Columns
    that `Query` doesn't name are left unread; columns with a default may be missing, and in CSV empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._lines: dict[tuple[str, str], int] = {}
        self._files: dict[str, str] = {}
        if not path.is_dir():
            raise DataError([f"{path}: there is no such folder"])

    def read(self, name: str, kind: type[Row], key: Callable[[Row], str] | None = None) -> list[Row]:
        """The good rows, in the file's order, each with a `key` (default: its `id`) of its own."""
        file = self._file(name)
        if file is None:
            return []
        rows: list[Row] = []
        seen: dict[str, int] = {}
        try:
            fields = list(_csv(file) if file.suffix == ".csv" else _json_lines(file))
        except _UnreadableError as error:
            self.problems.append(f"{file.name}:{error.line}: {error}")
            return []
        for line, found in fields:
            try:
                row = _convert(found, kind, loose=file.suffix == ".csv")
                identity = key(row) if key else str(row.id)  # type: ignore[attr-defined]
                if identity in seen:
                    raise _RowError(f"{identity!r} is there already, in line {seen[identity]}")
            except _RowError as error:
                self.problems.append(f"{file.name}:{line}: {error}")
                continue
            seen[identity] = self._lines[name, identity] = line
            rows.append(row)
        if not fields:
            self.problems.append(f"{file.name}: it has no rows")
        return rows

    def wrong(self, name: str, identity: str, what: str) -> None:
        """A problem of a row that was read."""
        self.problems.append(f"{self._files[name]}:{self._lines[name, identity]}: {what}")

    def wrong_as_a_whole(self, what: str) -> None:
        """A problem of no single row."""
        self.problems.append(f"{self.path}: {what}")

    def finish(self) -> None:
        """Raises `DataError` if anything was wrong."""
        if self.problems:
            raise DataError(self.problems)

    def _file(self, name: str) -> Path | None:
        found = [file for suffix in (".jsonl", ".csv") if (file := self.path / f"{name}{suffix}").is_file()]
        if len(found) != 1:
            needed = f"{name}.jsonl or {name}.csv"
            self.problems.append(
                f"{self.path}: {'needs ' + needed if not found else 'has both ' + needed + ': keep one'}"
            )
            return None
        self._files[name] = found[0].name
        return found[0]


def digest(path: Path) -> str:
    """SHA-256 over names and contents of the data files in a folder, hexadecimal."""
    found = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".jsonl", ".csv"):
            content = file.read_bytes()
            found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


class _UnreadableError(Exception):
    """A file that can't be read from this line on."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _RowError(Exception):
    """A row that can't be used."""


_Lines = Iterator[tuple[int, dict[str, Any] | _RowError]]


def _json_lines(file: Path) -> _Lines:
    for number, line in enumerate(file.read_bytes().removeprefix(_MARK).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield number, _RowError(f"not JSON: {error}")
            continue
        yield number, found if isinstance(found, dict) else _RowError("not a JSON object, {…}")


def _csv(file: Path) -> _Lines:
    content = file.read_bytes().removeprefix(_MARK)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _UnreadableError(content[: error.start].count(b"\n") + 1, "not UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise _UnreadableError(1, "two columns have the same name")
        line = reader.line_num + 1
        for row in reader:
            if None in row or None in row.values():
                yield line, _RowError(f"line 1 names {len(names)} columns, and this row has more or fewer")
            else:
                yield line, {name: value for name, value in row.items() if value != ""}
            line = reader.line_num + 1
    except csv.Error as error:
        raise _UnreadableError(line, f"not CSV: {error}") from None


def _convert(found: dict[str, Any] | _RowError, kind: type[Row], *, loose: bool) -> Row:
    if isinstance(found, _RowError):
        raise found
    try:
        row = msgspec.convert(found, kind, strict=not loose)
    except msgspec.ValidationError as error:
        raise _RowError(str(error).replace(" - at `$.", " in `").replace("Object", "the row")) from None
    needed = kind.__struct_fields__[: len(kind.__struct_fields__) - len(kind.__struct_defaults__)]
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, str):
            if name in needed and not value.strip():
                raise _RowError(f"`{name}` is empty")
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise _RowError(f"`{name}` has half a surrogate pair, which isn't a character")
    return row
