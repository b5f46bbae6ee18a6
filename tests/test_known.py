"""Checkpoints with known scores: what they're recognised by, and that nothing else is held against them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serve_app.engine import known
from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.demo import make_checkpoint
from serve_app.engine.engine import Engine
from serve_app.engine.golden import DOCUMENTS, PROMPT, QUERIES, Golden
from serve_app.engine.model_config import QWEN3_EMBEDDING
from serve_app.errors import CheckpointError, SelfCheckError
from serve_app.verify.local import recorded
from tests.checkpoints import SHAPES, checkpoint, copy_of

COMMIT = "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of known checkpoints that has the test checkpoint, as it is at `COMMIT`."""
    folder = tmp_path / "known"
    folder.mkdir()
    monkeypatch.setattr(known, "FOLDER", folder)
    golden = recorded(load(checkpoint()))
    fields = {name: getattr(golden, name) for name in golden.__slots__}
    Golden(**{**fields, "model": "acme/Known", "revisions": [COMMIT]}).write(folder / "known.json")
    return folder


def load(folder: Path) -> Engine:
    return Engine.load(str(folder), device="cpu")


def in_cache(tmp_path: Path, name: str = "acme--Known", commit: str = COMMIT) -> Path:
    """The test checkpoint as the Hugging Face cache would have it, files copied."""
    return Path(shutil.copytree(checkpoint(), tmp_path / f"models--{name}" / "snapshots" / commit))


def damage(folder: Path) -> None:
    """Swap two stretches of the weights, as a bad disk or a broken copy might: all numbers stay finite."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    middle, half = len(content) // 2, 100_000
    content[middle - half : middle + half] = content[middle : middle + half] + content[middle - half : middle]
    file.write_bytes(content)


def test_published_checkpoints() -> None:
    found = {golden.model: golden for golden in known.known_checkpoints()}
    scores = {
        "0.6B": [[0.7646, 0.1414], [0.1355, 0.6000]],
        "4B": [[0.7534, 0.1147], [0.0320, 0.6258]],
        "8B": [[0.7493, 0.0751], [0.0880, 0.6318]],
    }
    for size, wanted in scores.items():
        golden = found[f"Qwen/Qwen3-Embedding-{size}"]
        np.testing.assert_allclose(golden.scores, wanted, atol=1e-4)
        assert (tuple(golden.queries), tuple(golden.documents)) == (QUERIES, DOCUMENTS)
        assert golden.queries[0].startswith(PROMPT)
        # A header has about 110 bytes a tensor: no other number of bfloat16 parameters fits.
        headers = sum(weights.bytes for weights in golden.weights.values()) - 2 * QWEN3_EMBEDDING[size].parameters
        tensors = 2 + 11 * QWEN3_EMBEDDING[size].num_hidden_layers
        assert 90 * tensors < headers < 130 * tensors
        assert all(len(weights.sha256) == 64 for weights in golden.weights.values())
        assert all(len(commit) == 40 for commit in golden.revisions)
        assert {"scores", "weights", "revisions"} == set(golden.source)
    assert COMMIT in found["Qwen/Qwen3-Embedding-0.6B"].revisions


def test_by_commit_and_by_hash(tmp_path: Path, registry: Path, caplog: pytest.LogCaptureFixture) -> None:
    by_commit = known.recognise(Checkpoint.read(in_cache(tmp_path)))
    renamed = copy_of(checkpoint(), tmp_path).rename(tmp_path / "whatever")
    by_hash = known.recognise(Checkpoint.read(renamed))
    assert by_commit is not None and by_hash is not None
    assert (by_commit.by, by_hash.by) == (f"its commit {COMMIT}", "the SHA-256 of its weights")
    with caplog.at_level("INFO"):
        load(renamed)
    assert "whatever is known by the SHA-256 of its weights; scores are off by" in caplog.text


def test_sharded_weights_by_the_names_of_blobs(tmp_path: Path, registry: Path) -> None:
    """As the hub's cache has them: links to files named by their hash, which needn't be read to know them."""
    folder = copy_of(checkpoint(shards=3), tmp_path)
    golden = recorded(load(folder))
    golden.write(registry / "sharded.json")
    for name, weights in golden.weights.items():
        blob = tmp_path / weights.sha256
        (folder / name).rename(blob)
        blob.write_bytes(bytes(weights.bytes))
        (folder / name).symlink_to(blob)
    assert len(golden.weights) == 3
    assert known.recognise(Checkpoint.read(folder)) is not None
    files = known.weight_files(folder)
    assert known.sha256_of(files) != known.sha256_of(files, trust_names=False)


def test_a_fine_tune_is_not_held_against_its_base(tmp_path: Path, registry: Path) -> None:
    """Same shapes, same name, even the same place in the cache but for the commit; other weights."""
    tuned = make_checkpoint(tmp_path / "models--acme--Known" / "snapshots" / "f1e7", SHAPES["demo"], seed=8)
    assert known.recognise(Checkpoint.read(tuned)) is None
    load(tuned)
    published = make_checkpoint(tmp_path / "Qwen3-Embedding-0.6B", SHAPES["demo"], seed=8)
    load(published)


def test_damaged_weights_are_refused(tmp_path: Path, registry: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = in_cache(tmp_path)
    damage(folder)
    with pytest.raises(SelfCheckError) as raised:
        load(folder)
    assert "the model fails its self-check, so it isn't served: golden scores: wrong by" in str(raised.value)
    [error] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert error.startswith("acme/Known fails its self-check, so it isn't served: golden scores: wrong by")
    assert "fetch the model again" in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    Engine.load(str(folder), device="cpu", verify=False)


def test_an_altered_config_is_refused(tmp_path: Path, registry: Path) -> None:
    folder = copy_of(checkpoint(), tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"rope_theta": 1e4}))
    with pytest.raises(SelfCheckError, match="golden scores: wrong by"):
        load(folder)


def test_a_models_own_golden_file(tmp_path: Path) -> None:
    tuned = make_checkpoint(tmp_path / "mine", SHAPES["demo"], seed=9)
    recorded(load(tuned)).write(tuned / known.OWN_FILE)
    load(tuned)
    damage(tuned)
    with pytest.raises(SelfCheckError, match="where embedserve/demo has"):
        load(tuned)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("scores", "Expecting value"),
        ("[1]", "it has a list and no JSON object"),
        ("{}", "'scores'"),
        ('{"model": "m", "scores": [[1]]}', "its scores aren't 2 rows of 2 numbers"),
        ('{"model": "m", "scores": [[1, NaN], [0, 1]]}', "its scores aren't 2 rows of 2 numbers"),
        ('{"model": "m", "scores": [[1, 0], [0, 1]], "color": 1}', "unexpected keyword argument 'color'"),
    ],
)
def test_files_that_are_no_golden_files(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "golden.json"
    file.write_text(content)
    with pytest.raises(CheckpointError) as raised:
        Golden.read(file)
    assert "isn't a file that `embedserve verify MODEL --record FILE` has written" in str(raised.value)
    assert said in str(raised.value)


def test_a_recorded_file_reads_as_written(tmp_path: Path) -> None:
    golden = recorded(load(checkpoint()))
    golden.write(tmp_path / "golden.json")
    again = Golden.read(tmp_path / "golden.json")
    np.testing.assert_allclose(again.scores, golden.scores, atol=1e-6)
    assert again.weights == golden.weights
    assert again.scores.shape == (2, 5)
