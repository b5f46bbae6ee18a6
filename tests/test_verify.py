"""`embedserve verify MODEL`: its table, its JSON and its exit code, and what it finds wrong with folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.engine import known
from serve_app.engine.demo import make_checkpoint
from serve_app.engine.finding import Finding, failures
from serve_app.engine.golden import Golden
from serve_app.engine.model import Model
from serve_app.engine.shared_prefix import SharedPrefix
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import CheckpointError
from serve_app.types import TokenIds, Truncate
from serve_app.verify.files import check_end_token, check_weights
from serve_app.verify.local import recorded, verify_model
from serve_app.verify.report import Report
from tests.checkpoints import SHAPES, checkpoint, copy_of, edit_json
from tests.demo_service import listening
from tests.reference import engine


def wrong(folder: Path, **options: object) -> dict[str, str]:
    """What is found wrong with a model, by check."""
    report, _ = verify_model(str(folder), **options)  # type: ignore[arg-type]
    return {finding.check: finding.said for finding in failures(report.findings)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of(checkpoint(), tmp_path)


def test_table_and_exit_code_of_a_right_model() -> None:
    result = CliRunner().invoke(app, ["verify", str(checkpoint())])
    assert result.exit_code == 0
    assert "ok     batch invariance  the same alone and among others: cosine 1.000000" in result.stdout
    assert "-      golden scores     not a checkpoint with known scores" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{checkpoint()}: nothing is wrong, 1 couldn't be made"


def test_recorded_here_and_compared_elsewhere(tmp_path: Path, folder: Path) -> None:
    """The round trip of a user's own model, and of an entry for the package's known checkpoints."""
    file = tmp_path / "golden.json"
    result = CliRunner().invoke(app, ["verify", str(folder), "--record", str(file)])
    assert (result.exit_code, result.stderr) == (0, f"Scores are in {file}.\n")
    result = CliRunner().invoke(app, ["verify", str(folder), "--against", str(file), "--dtype", "bfloat16", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["passed"] and report["known"] == "embedserve/demo, by what it is held against"
    assert report["findings"][-1]["check"] == "golden scores"
    other = make_checkpoint(tmp_path / "other", SHAPES["demo"], seed=8)
    result = CliRunner().invoke(app, ["verify", str(other), "--against", str(file)])
    assert result.exit_code == 1
    assert "WRONG  golden scores" in result.stdout
    assert result.stdout.endswith("1 of 14 checks failed\n")


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    file = tmp_path / "golden.json"

    def full(self: Golden, file: Path) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(Golden, "write", full)
    result = CliRunner().invoke(app, ["verify", str(folder), "--record", str(file)])
    assert (result.exit_code, result.stderr) == (1, f"embedserve: {file} can't be written: No space left on device.\n")


def test_nothing_is_recorded_of_a_model_that_is_wrong(tmp_path: Path, folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    file = tmp_path / "golden.json"
    result = CliRunner().invoke(app, ["verify", str(folder), "--record", str(file)])
    assert (result.exit_code, file.exists()) == (1, False)
    assert "Nothing written" in result.stderr


def test_an_entry_for_the_package_is_recognised_by_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(known, "FOLDER", tmp_path / "known")
    known.FOLDER.mkdir()
    CliRunner().invoke(app, ["verify", str(folder), "--record", str(known.FOLDER / "demo.json")])
    report, _ = verify_model(str(folder.rename(tmp_path / "elsewhere")))
    assert report.known == "embedserve/demo, by the SHA-256 of its weights"
    assert report.passed
    assert [finding.check for finding in report.findings if finding.passed is None] == []


def test_an_adapter_is_not_ignored(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    said = wrong(folder)["adapter"]
    assert said.startswith("adapter_config.json and adapter_model.safetensors say that this is an adapter for a model")
    assert "Merge it into the weights (peft's `merge_and_unload`" in said


def test_pooling_that_is_not_ours(folder: Path) -> None:
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True)
    assert "pooling is ['mean_tokens'], only ['lasttoken'] is supported" in wrong(folder)["pooling files"]


def test_a_tokenizer_of_the_first_uploads(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "first", SHAPES["demo"], end_of_text=False)
    assert "doesn't end with <|endoftext|>" in wrong(folder)["end token"]
    assert "fetch a newer revision" in wrong(folder)["end token"]


def test_a_tokenizer_that_cuts_the_end_token_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: Tokenizer, ids: TokenIds, limit: int, side: Truncate) -> TokenIds:
        return ids[:limit]

    monkeypatch.setattr(Tokenizer, "cut", cut)
    with pytest.raises(CheckpointError, match=r"doesn't end with <\|endoftext\|> when cut to 4"):
        check_end_token(Tokenizer.read(checkpoint()))


def test_several_faults_are_found_at_once(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    edit_json(folder / "config.json", hidden_act="gelu")
    (folder / "tokenizer.json").unlink()
    assert list(wrong(folder)) == ["adapter", "config", "end token"]


def test_shared_prefixes_that_compute_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Model.prefix

    def zeros(model: Model, ids: TokenIds) -> SharedPrefix:
        kept = right(model, ids)
        return SharedPrefix(kept.keys * 0, kept.values)

    monkeypatch.setattr(Model, "prefix", zeros)
    assert "serve with batch.prefix_cache_mb=0" in wrong(checkpoint())["shared prefixes"]


def test_float16(folder: Path) -> None:
    assert wrong(folder, dtype="float16")["loading"].startswith("dtype float16 is refused: activations of the 8B")


def test_weights_with_nan_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    file.write_bytes(content)
    assert wrong(folder)["weights"].startswith("NaN or infinity in ")
    file.write_bytes(content[:5000])
    assert wrong(folder)["weights"].startswith("not readable as safetensors")


def test_weights_and_prompts_of_a_published_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "FOLDER", tmp_path / "known")
    known.FOLDER.mkdir()
    golden = recorded(engine())
    fields = {name: getattr(golden, name) for name in golden.__slots__} | {"model": "acme/Known", "revisions": ["f00d"]}
    Golden(**fields).write(known.FOLDER / "known.json")
    snapshot = tmp_path / "models--acme--Known" / "snapshots" / "f00d"
    make_checkpoint(snapshot, SHAPES["demo"], seed=8)
    edit_json(snapshot / "config_sentence_transformers.json", prompts={"query": "Query: ", "document": ""})
    found = wrong(snapshot)
    assert list(found) == ["prompts", "weight hash", "golden scores"]
    assert "config_sentence_transformers.json has 'Query: ' for queries" in found["prompts"]
    assert found["weight hash"].startswith("model.safetensors of acme/Known should have another SHA-256")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert wrong(folder)["weights"] == "there are none"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name a model, or a service with --url."),
        (["a", "--url", "http://b"], "Name a model, or a service with --url."),
        (
            ["--url", "http://b", "--dtype", "int8"],
            "--device and --dtype are for a model on this machine, not for --url.",
        ),
        (["http://b:8000"], "http://b:8000 is no model: for a service, `embedserve verify --url http://b:8000`."),
        (["--url", "http://b:port"], "'http://b:port' isn't the URL of a service: "),
        (["a", "--record", "nowhere/golden.json"], "--record nowhere/golden.json: there is no folder nowhere."),
        (["a", "--record", "."], "--record .: that is a folder."),
        (["./nowhere"], "./nowhere: there is no such folder"),
        (
            ["embedserve/demo", "--against", "nowhere.json"],
            "nowhere.json isn't a file that `embedserve verify MODEL --record",
        ),
    ],
)
def test_arguments_that_can_not_be(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["verify", *arguments])
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_service_by_its_url_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.api.app import build_app
    from tests.defective_service import DefectiveService

    seen: list[bytes] = []
    inner = build_app(DefectiveService("cut but not renormalised"))

    async def guarded(scope: dict[str, object], receive: object, send: object) -> None:
        seen.append(dict(scope["headers"]).get(b"authorization", b""))  # type: ignore[call-overload]
        await inner(scope, receive, send)

    monkeypatch.setenv("EMBEDSERVE_API_KEY", "a-key-of-a-test")
    with listening(guarded) as url:
        result = CliRunner().invoke(app, ["verify", "--url", url.removeprefix("http://")])
    assert result.exit_code == 1
    assert "WRONG  dimensions" in result.stdout
    assert set(seen) == {b"Bearer a-key-of-a-test"}
    assert "a-key-of-a-test" not in result.output


def test_a_report_without_findings() -> None:
    report = Report("x")
    assert report.as_table() == "x: nothing is wrong"
    report.findings.append(Finding("check", None, "couldn't"))
    assert report.passed


def test_a_checkpoint_that_nobody_knows_has_no_hash_to_compare() -> None:
    from serve_app.engine.checkpoint import Checkpoint

    assert [finding.check for finding in check_weights(Checkpoint.read(checkpoint()), None)] == ["weights"]
