"""Vectors that `embedserve eval` keeps on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve_app.evals.cache import FILE, Cache, CacheError, Kept, key_of

MODEL = {"kind": "ours", "url": "http://h", "model": "m", "told": {"revision": "abc"}}
SECRET = "a text that nobody else may read"


def unit(*values: float) -> np.ndarray:
    return np.array(values, np.float32) / np.linalg.norm(values).astype(np.float32)


PROBE = unit(1, 2, 3)


def test_what_is_put_is_there_for_the_next_run_and_no_text_is(tmp_path: Path) -> None:
    vector = unit(3, -4)
    with Cache(tmp_path) as cache:
        key = key_of(cache.model(MODEL, PROBE), "Instruct: keep it\nQuery:", SECRET)
        cache.put([(key, Kept(vector, 2.5))])
    with Cache(tmp_path) as cache:
        assert key_of(cache.model(MODEL, PROBE), "Instruct: keep it\nQuery:", SECRET) == key
        found = cache.get([key, b"other"])
        np.testing.assert_array_equal(found[key].vector, vector)
        assert found[key].tokens == 2.5
        assert list(found) == [key]
    for file in tmp_path.iterdir():
        assert not {SECRET.encode(), b"keep it"} & {
            word for word in (SECRET.encode(), b"keep it") if word in file.read_bytes()
        }
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_each_part_of_the_key_matters() -> None:
    assert len({key_of(m, b, t) for m in (b"m", b"n") for b in ("", "x", "xy") for t in ("", "y", "x")}) == 18


def test_another_revision_or_other_weights_under_the_same_name_start_anew(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        first = cache.model(MODEL, PROBE)
        assert cache.model(MODEL, unit(1, 2.001, 3)) == first  # rounding, as between batches
        other = cache.model(MODEL, unit(1, 2.2, 3))
        assert cache.model(MODEL, unit(1, 2)) not in (first, other)
        assert cache.model({**MODEL, "told": {"revision": "abd"}}, PROBE) != first
        # And the one before is found again.
        assert cache.model(MODEL, PROBE) == first


def test_without_a_folder_it_lasts_as_long_as_the_run() -> None:
    with Cache(None) as cache:
        cache.put([(b"k", Kept(PROBE, None))])
        assert cache.get([b"k"])[b"k"].tokens is None
    with Cache(None) as cache:
        assert not cache.get([b"k"])


def test_what_can_not_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / FILE).write_text("no database, whatever its name says" * 40)
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(CacheError, match="Choose another folder, or use --no-cache"):
            Cache(folder)
