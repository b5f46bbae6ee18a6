"""API keys: their hashes, and the file that they are in, read again when it changes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path

import pytest

from serve_app.access.key import ApiKey, KeyRing, hashed, new_secret
from serve_app.access.key_file import parse_keys
from serve_app.access.keys import Keys

SECRET = "es-9iZkF0m3dPq-kX1yV7nB2cT5rW8uA4eJ6hL0sGfDoQ"


def file_of(*entries: dict[str, object]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def entry(name: str, secret: str = SECRET, **fields: object) -> dict[str, object]:
    return {"name": name, "hash": hashed(secret), **fields}


def test_a_hash_is_sha256_of_the_secret() -> None:
    assert hashed(SECRET) == "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest()


def test_new_secrets_differ_and_have_256_bits() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret) == len("es-") + 43 for secret in secrets)


def test_a_ring_finds_a_key_by_its_secret_alone() -> None:
    ring = KeyRing([ApiKey("a", (hashed("one"), hashed("two"))), ApiKey("b", (hashed("three"),))])
    found = [ring.find(secret) for secret in (b"one", b"two", b"three", b"four", b"", hashed("one").encode())]
    assert [key.name if key else None for key in found] == ["a", "a", "b", None, None, None]


@pytest.mark.parametrize(
    "keys",
    [
        [ApiKey("a", (hashed("one"),)), ApiKey("a", (hashed("two"),))],
        [ApiKey("a", (hashed("one"),)), ApiKey("b", (hashed("one"),))],
    ],
)
def test_keys_that_cannot_be_told_apart_are_refused(keys: list[ApiKey]) -> None:
    with pytest.raises(ValueError, match=r"named a|hash of a"):
        KeyRing(keys)


def test_models_are_found_by_id_or_last_part_in_any_case() -> None:
    [key] = parse_keys(file_of(entry("a", models=["Qwen3-Embedding-0.6B", "org/Other"])))
    assert key.allows("Qwen/Qwen3-Embedding-0.6B")
    assert key.allows("ORG/other")
    assert not key.allows("other")
    assert not key.allows("Qwen/Qwen3-Embedding-4B")
    [free] = parse_keys(file_of(entry("a")))
    assert free.allows("anything")


def test_a_file_in_yaml() -> None:
    text = f"""
keys:
  - name: search  # the website
    hash: {hashed("one")}
    requests_per_minute: 600
    tokens_per_minute: 1000000
  - name: nightly
    hash: [{hashed("two")}, {hashed("three")}]
    max_concurrent: 4
    priority: bulk
    models: [Demo]
  - {{name: gone, hash: "{hashed("four")}", disabled: true}}
  - {{name: ops, hash: "{hashed("five")}", admin: true}}
"""
    assert parse_keys(text.encode()) == [
        ApiKey("search", (hashed("one"),), 600, 1_000_000),
        ApiKey("nightly", (hashed("two"), hashed("three")), None, None, 4, True, frozenset({"demo"})),
        ApiKey("ops", (hashed("five"),), admin=True),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "KeyFile|object"),
        (b"[]", "must stand under `keys:`"),
        (b"keys: {}", "array"),
        (b"keys: []\nkey: 1", "unknown field `key`"),
        (b"keys: [\n", "isn't YAML, from line 2 on"),
        (file_of({"name": "a"}), "missing required field `hash`"),
        (file_of({"name": "a", "hash": SECRET}), r"\$.keys\[0\].hash"),
        (file_of({"name": "a", "hash": []}), "hash"),
        (file_of({"name": "a b", "hash": hashed("x")}), "name"),
        (file_of({"name": "a\n", "hash": hashed("x")}), "name"),
        (file_of(entry("a", requests_per_minute=0)), "requests_per_minute"),
        (file_of(entry("a", tokens_per_minute=1.5)), "tokens_per_minute"),
        (file_of(entry("a", priority="urgent")), "priority"),
        (file_of(entry("a", api_key=SECRET)), "api_key"),
        (f"keys:\n  - name: a\n    hash: '{SECRET}\n".encode(), "isn't YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_and_no_secret_quoted(text: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        parse_keys(text)
    assert SECRET not in str(raised.value)


# --- read again


class Disk:
    """A file of keys that is looked at with a clock that is always late enough."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = 1_000_000_000
        self.write(file_of(entry("a", "one"), entry("b", "two")))
        self.keys = Keys([ApiKey("fixed", (hashed("zero"),))], str(path), clock=lambda: self.stamp / 1e9 + 10)

    def write(self, text: bytes) -> None:
        self.stamp += 1_000_000_000
        draft = self.path.with_suffix(".new")
        draft.write_bytes(text)
        os.utime(draft, ns=(self.stamp, self.stamp))
        draft.replace(self.path)

    def names(self) -> list[str]:
        self.keys.look()
        return sorted(self.keys.ring.keys)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "keys.yaml")


def test_a_changed_file_is_taken_over_and_its_names_logged(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert disk.names() == ["a", "b", "fixed"]
    disk.write(file_of(entry("a", "one", admin=True), entry("c", SECRET)))
    assert disk.names() == ["a", "c", "fixed"]
    assert disk.keys.ring.find(b"two") is None
    assert disk.keys.ring.find(SECRET.encode())
    assert "API keys changed: +c, -b, ~a" in caplog.text
    assert SECRET not in caplog.text
    assert hashed(SECRET) not in caplog.text


@pytest.mark.parametrize(
    "broken", [b"keys: [", b"", file_of(entry("a", "one"), entry("a", "two")), file_of(entry("x", "zero"))]
)
def test_a_broken_file_keeps_the_keys_and_complains_once(
    disk: Disk, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    disk.write(broken)
    for _ in range(3):
        assert disk.names() == ["a", "b", "fixed"]
    assert caplog.text.count("The API keys stay as they were") == 1
    disk.write(file_of(entry("b", "two")))
    assert disk.names() == ["b", "fixed"]


def test_a_file_that_is_gone_keeps_the_keys(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.path.unlink()
    assert disk.names() == ["a", "b", "fixed"]
    assert disk.names() == ["a", "b", "fixed"]
    assert caplog.text.count("can't be read") == 1


def test_an_empty_list_shuts_everybody_out(disk: Disk) -> None:
    disk.write(b"keys: []")
    assert disk.names() == ["fixed"]


def test_an_unchanged_file_is_not_read_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.keys.look()
    monkeypatch.setattr("serve_app.access.keys.read_keys", lambda path: pytest.fail("read"))
    disk.keys.look()


def test_a_file_written_twice_within_a_tick_is_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(file_of(entry("a", "one")))
    stamp = path.stat().st_mtime_ns
    keys = Keys([], str(path), clock=time.time)
    path.write_bytes(file_of(entry("a", "two")))
    os.utime(path, ns=(stamp, stamp))
    keys.look()
    assert keys.ring.find(b"two")
    assert keys.ring.find(b"one") is None


@pytest.mark.parametrize("text", [None, b"keys: ["])
def test_without_a_good_file_there_is_no_start(tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "keys.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ValueError, match=r"keys\.yaml can't be"):
        Keys([], str(path))
