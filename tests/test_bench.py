"""`embedserve bench` as a user runs it, against servers in this process that speak OpenAI's and Cohere's contracts."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from serve_app.bench.report import warnings
from serve_app.cli import app
from tests.hosted import Hosted

SECRET = "sk-test-4711-0815-secret"
QUICK = ("--seconds", "0.2", "--warm-seconds", "0.05", "--rounds", "2", "--connections", "1,3", "--rate", "50%")


def bench(*arguments: str, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app.cli", "bench", *arguments, "--out", str(out)]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)


def test_openai_and_cohere_targets_make_one_report(tmp_path: Path) -> None:
    with Hosted.running(stages=True) as ours, Hosted.running(key=SECRET) as other:
        done = bench(
            "--target",
            f"ours={ours.url}/v1,hourly=1.5",
            "--target",
            f"hosted={other.url},key-env=HOSTED_KEY,price=0.12,model=words-1,dialect=cohere",
            "--workload",
            "query,instruction",
            "--note",
            "an <unusual> note",
            *QUICK,
            out=tmp_path,
            HOSTED_KEY=SECRET,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    runs = 2 * 2 * 3 * 2  # rounds, workloads, loads, targets
    assert len(report["rounds"]) == runs
    assert {(row["workload"], row["load"], row["target"]) for row in report["summary"]} == {
        (workload, load, target)
        for workload in ("query", "instruction")
        for load in ("1 caller", "3 callers", *(row["load"] for row in report["rounds"] if row["open"]))
        for target in ("ours", "hosted")
        if any(r["load"] == load and r["workload"] == workload for r in report["rounds"])
    }
    assert all(row["errors"] == row["wrong"] == 0 and row["requests"] > 0 for row in report["rounds"])
    # Cohere's tokens are two to a word here and OpenAI's one: a million of ours cost twice the price of a million of theirs.
    by_target = {row["target"]: row for row in report["summary"]}
    assert report["workloads"][0]["factors"] == {"ours": 1.0, "hosted": 2.0}
    assert by_target["hosted"]["dollars_per_million"]["median"] == pytest.approx(0.24)
    rate = by_target["ours"]["reference_tokens_per_second"]["median"]
    assert by_target["ours"]["dollars_per_million"]["median"] == pytest.approx(1.5 / rate / 3600 * 1e6, rel=0.5)
    assert "first_is" in by_target["hosted"]
    assert "first_is" not in by_target["ours"]
    assert all(body["input_type"] == "search_query" for body in other.bodies)
    # The key was used and is nowhere in what is left behind.
    assert other.answered == len(other.bodies)
    assert SECRET not in done.stdout + done.stderr
    for file in tmp_path.iterdir():
        assert SECRET not in file.read_text(encoding="utf-8")
    with (tmp_path / "report.csv").open(encoding="utf-8") as lines:
        assert len(list(csv.DictReader(lines))) == runs
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 * 4  # for each workload: distribution, curve, stages, cost
    assert not re.search(r"<(script|link|img)\b", page)
    assert "an &lt;unusual&gt; note" in page
    for said in (
        "milliseconds (log)",
        "requests answered a second",
        "US dollars for a million reference tokens",
        "Revision of the load generator",
        "Hardware",
        "HOSTED_KEY",
        "cohere:embed-v4.0",
    ):
        assert said in page, said


def test_every_request_is_counted(tmp_path: Path) -> None:
    with Hosted.running() as hosted:
        done = bench("--target", f"one={hosted.url}", "--workload", "mix", *QUICK, "--warm-seconds", "0", out=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = orjson.loads((tmp_path / "report.json").read_bytes())["rounds"]
    assert sum(row["requests"] for row in rows) == hosted.answered - 8  # eight are asked before the rounds
    texts = [body["input"] for body in hosted.bodies]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("one", "isn't NAME=URL"),
        ("one=ftp://x", "isn't an http URL"),
        ("one=http://user:password@x", "more than a host"),
        ("one=http://x,prize=1", "isn't understood"),
        ("one=http://x,price=-1", "isn't a number of dollars"),
        ("one=http://x,key-env=NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"),
        ("one=http://x,dialect=latin", "latin"),
        ("one=http://127.0.0.1:9", "can't be reached"),
    ],
)
def test_what_can_not_be_used_is_said(target: str, said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--target", target, *QUICK, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert said in done.stderr
    assert "password" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workload", "mix,nonsense"], "nonsense"),
        (["--workload", ""], "Unknown workload"),
        (["--connections", "0"], "--connections and --rate"),
        (["--connections", "", "--rate", ""], "names a load"),
        (["--connections", "", "--rate", "50%"], "needs --connections"),
        (["--target", "one=http://y"], "same name"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--target", "one=http://x", "--out", str(tmp_path / "out"), *options])
    assert done.exit_code == 1
    assert said in done.stderr


def test_a_folder_that_cannot_be_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Hosted.running() as hosted:
        done = CliRunner().invoke(
            app, ["bench", "--target", f"one={hosted.url}", *QUICK, "--out", str(tmp_path / "file")]
        )
        assert hosted.answered == 8
    assert done.exit_code == 1
    assert f"--out {tmp_path / 'file'}: no report can be written there: File exists." in done.stderr


def test_a_refused_key_is_said_without_the_part_that_the_reply_repeats(tmp_path: Path) -> None:
    with Hosted.running(key=SECRET) as hosted:
        target = f"one={hosted.url},key-env=WRONG_KEY,model=words-1"
        done = bench("--target", target, *QUICK, out=tmp_path / "out", WRONG_KEY="sk-wrong-0123456789")
    assert done.returncode == 1
    assert "status 401" in done.stderr
    assert "sk-wro" not in done.stderr
    assert "6789" not in done.stderr


def test_the_demo_checkpoint_is_no_base_for_dollars() -> None:
    report = {"summary": [], "messages": {}, "targets": [{"name": "ours", "model": "embedserve/demo"}]}
    assert warnings(report) == [
        "ours serves the demo checkpoint, a toy: its dollars say nothing about what a real model costs."
    ]
    report["targets"] = [{"name": "ours", "model": "Qwen/Qwen3-Embedding-0.6B"}]
    assert warnings(report) == []
