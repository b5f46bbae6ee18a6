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
SUFFIXES = (".jsonl", ".csv")
SHOWN = 50
_MARK = b"\xef\xbb\xbf"  # a byte order mark, which spreadsheets put first

Row = TypeVar("Row", bound=msgspec.Struct)


class DataError(ValueError):
    """What is wrong with a folder of texts: `problems` has all of it, a line `file:line: what` each, and the message the first `SHOWN`
    and a count of the others. Of a row with several faults it says the first."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        shown = problems[:SHOWN]
        if len(problems) > SHOWN:
            shown.append(f"and {len(problems) - SHOWN} more problems")
        super().__init__("\n".join(shown))


class Folder:
    """The files of one suite. Problems are collected, so that a user sees all of them at once: call `finish` at the end.

    `read("queries", Query)` takes `queries.jsonl` or `queries.csv` (UTF-8, a byte order mark allowed; lines end in LF or CRLF; CSV as
    spreadsheets write it, commas and a header line). Columns that `Query` doesn't name are left unread; columns with a default
    may be missing, and in CSV empty. Blank lines are no rows. Anything else that isn't a good row is a problem.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._lines: dict[tuple[str, str], int] = {}
        self._files: dict[str, Path] = {}
        self._broken: set[str] = set()
        if not path.is_dir():
            raise DataError([f"{path}: there is no such folder"])

    def read(self, name: str, kind: type[Row], key: Callable[[Row], str] | None = None) -> list[Row]:
        """The good rows, in the file's order, each with a `key` (default: its `id`) of its own."""
        file = self._file(name)
        if file is None:
            return []
        rows: list[Row] = []
        seen: dict[str, int] = {}
        before = len(self.problems)
        try:
            content = file.read_bytes().removeprefix(_MARK)
        except OSError as error:
            self.problems.append(f"{file}: can't be read: {error.strerror}")
            return []
        for line, found in _csv(content) if file.suffix == ".csv" else _json_lines(content):
            try:
                row = _convert(found, kind, loose=file.suffix == ".csv")
                identity = key(row) if key else str(row.id)  # type: ignore[attr-defined]
                if identity in seen:
                    raise _RowError(f"{identity!r} is there already, in line {seen[identity]}")
            except _RowError as error:
                self.problems.append(f"{file}:{line}: {error}")
                continue
            seen[identity] = self._lines[name, identity] = line
            rows.append(row)
        if len(self.problems) > before:
            self._broken.add(name)
        elif not rows:
            self.problems.append(f"{file}: it has no rows")
            self._broken.add(name)
        return rows

    def has(self, name: str) -> bool:
        """Whether there is such a file, in either format."""
        return any((self.path / f"{name}{suffix}").is_file() for suffix in SUFFIXES)

    def whole(self, name: str) -> bool:
        """Whether all rows of a file are known, so that one who refers to another row is wrong."""
        return name in self._files and name not in self._broken

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
        found = [file for suffix in SUFFIXES if (file := self.path / f"{name}{suffix}").is_file()]
        if len(found) != 1:
            fault = (
                f"needs {name}.jsonl or {name}.csv" if not found else f"has both {name}.jsonl and {name}.csv: keep one"
            )
            self.problems.append(f"{self.path}: {fault}")
            return None
        self._files[name] = found[0]
        return found[0]


def digest(path: Path) -> str:
    """SHA-256 over names and contents of the data files in a folder, hexadecimal."""
    found = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in SUFFIXES:
            content = file.read_bytes()
            found.update(f"{file.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


class _RowError(Exception):
    """A row that can't be used."""


_Lines = Iterator[tuple[int, dict[str, Any] | _RowError]]


def _json_lines(content: bytes) -> _Lines:
    for number, line in enumerate(content.split(b"\n"), 1):  # not splitlines, for which U+2028 in a text ends a line
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield number, _RowError(f"not JSON: {error}")
            continue
        yield number, found if isinstance(found, dict) else _RowError("not a JSON object, {…}")


def _csv(content: bytes) -> _Lines:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield line, _RowError("not UTF-8, so that nothing of the file was read; in a spreadsheet save as 'CSV UTF-8'")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            if cells and not names:
                names = [name.strip() for name in cells]
                if fault := _fault_of(names):
                    yield line, _RowError(f"{fault}; no row was read")
                    return
            elif cells and len(cells) != len(names):
                yield line, _RowError(f"{len(cells)} columns, and the header has {len(names)}")
            elif cells:
                yield line, {name: value for name, value in zip(names, cells, strict=True) if value != ""}
            line = reader.line_num + 1  # where the next row begins; a quoted line break makes a row longer than a line
    except csv.Error as error:
        yield line, _RowError(f"not CSV: {error}; what follows wasn't read")


def _fault_of(header: list[str]) -> str | None:
    if twice := [name for number, name in enumerate(header) if name in header[:number]]:
        return f"two columns are named {twice[0]!r}"
    for separator in (";", "\t"):
        if len(header) == 1 and separator in header[0]:
            return f"columns are separated by {separator!r}, and commas are needed"
    return None


def _convert(found: dict[str, Any] | _RowError, kind: type[Row], *, loose: bool) -> Row:
    if isinstance(found, _RowError):
        raise found
    try:
        row = msgspec.convert(found, kind, strict=not loose)
    except msgspec.ValidationError as error:
        raise _RowError(
            str(error).replace(" - at `$.", " in `").replace("Object missing required field", "there is no")
        ) from None
    needed = kind.__struct_fields__[: len(kind.__struct_fields__) - len(kind.__struct_defaults__)]
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, str):
            if name in needed and not value.strip():
                raise _RowError(f"`{name}` is empty")
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise _RowError(f"`{name}` has half a surrogate pair, which isn't a character")
    return row
