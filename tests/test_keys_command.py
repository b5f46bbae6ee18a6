"""`embedserve keys`: new keys, shown once, and the file that their entries go into."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.access.key import ApiKey, hashed
from serve_app.access.key_file import parse_keys, read_keys
from serve_app.cli import app


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["keys", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_new_key_is_shown_once_and_its_entry_fits_into_a_file() -> None:
    code, out, err = run(
        "new", "search", "--requests-per-minute", "60", "--bulk", "--model", "demo", "--model", "a:b, c"
    )
    assert code == 0
    [secret] = [word for word in err.split() if word.startswith("es-")]
    assert secret not in out
    assert err.endswith("Its entry, to stand under `keys:` in the file that auth.keys_file names:\n\n")
    [key] = parse_keys(b"keys:\n" + out.encode())
    assert key == ApiKey("search", (hashed(secret),), 60, None, None, True, frozenset({"demo", "a:b, c"}))


def test_entries_are_put_at_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    assert run("new", "first", "--file", str(path))[0] == 0
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text() + "    # a remark\n")
    assert run("new", "second", "--file", str(path), "--admin", "--tokens-per-minute", "5")[0] == 0
    assert [key.name for key in read_keys(path)] == ["first", "second"]
    assert "# a remark" in path.read_text()
    code, out, _ = run("list", "--file", str(path))
    assert code == 0
    assert [line.split(None, 1) for line in out.splitlines()] == [
        ["first", "no limits"],
        ["second", "5 tokens/min, admin"],
    ]


def test_an_empty_list_can_be_added_to(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("# ours\nkeys: []\n")
    assert run("new", "first", "--file", str(path))[0] == 0
    assert [key.name for key in read_keys(path)] == ["first"]


@pytest.mark.parametrize("name", ["42", "1.5", "no", "True", "null", "2026-11-30", "0x1F", "1_000"])
def test_a_name_that_yaml_takes_for_something_else_is_still_a_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "keys.yaml"
    assert run("new", name, "--file", str(path), "--admin")[0] == 0
    assert [(key.name, key.admin) for key in read_keys(path)] == [(name, True)]


@pytest.mark.parametrize("name", ["", "a b", "first", "ä", "x" * 65, "[", "a: b"])
def test_a_name_that_cannot_be_used_changes_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "keys.yaml"
    run("new", "first", "--file", str(path))
    before = path.read_bytes()
    code, _, err = run("new", name, "--file", str(path))
    assert code == 1
    assert "can't be used" in err
    assert "es-" not in err
    assert path.read_bytes() == before


def test_entries_without_what_they_stand_under(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(run("new", "a")[1])
    code, _, err = run("list", "--file", str(path))
    assert (code, err.endswith("can't be used: its entries must stand under `keys:`\n")) == (1, True)


def test_a_broken_file_is_refused_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("keys: [")
    assert run("list", "--file", str(path))[0] == 1
    assert run("new", "a", "--file", str(path))[0] == 1
    assert path.read_text() == "keys: ["
