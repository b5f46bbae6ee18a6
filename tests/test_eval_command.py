"""`embedserve eval` as a user runs it, against real loopback services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from serve_app.api.app import build_app
from serve_app.cli import app
from serve_app.evals.suites import SUITES
from serve_app.evals.target_encoder import PROBE
from tests.demo_service import DemoService, listening
from tests.hosted import Hosted

SECRET = "sk-test-4711-0815-secret"
WORDS = ("apple", "river", "engine", "music", "winter", "paper", "castle", "doctor")


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """Our API with the demo checkpoint."""
    with listening(build_app(DemoService())) as url:
        yield url


@pytest.fixture
def faq(tmp_path: Path) -> Path:
    """A user's own data for the suite *faq*: 40 questions, one CSV and one JSONL file."""
    folder = tmp_path / "my-faq"
    folder.mkdir()
    words = [f"{one} {other}" for one in WORDS for other in WORDS if one < other]
    entries = [{"id": f"e{number}", "question": f"What about {word}?"} for number, word in enumerate(words)]
    (folder / "entries.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    rows = [f"q{number},{word} please,e{number}" for number, word in enumerate(words)]
    (folder / "queries.csv").write_text("\n".join(["id,text,entry", *rows]) + "\n")
    return folder


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments], env=env)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "serve_app.cli", "eval", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_own_data_on_ours_and_the_baseline(demo: str, faq: Path, tmp_path: Path) -> None:
    common = ("--suite", "faq", "--data", f"faq={faq}", "--cache", str(tmp_path / "kept"))
    targets = ("--target", f"ours={demo},batch=16", "--target", "base=tfidf")
    first = run(*targets, *common, "--out", str(tmp_path / "one"))
    assert first.exit_code == 0, first.output
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"run.json", "report.md", "report.html"}
    found = json.loads((tmp_path / "one" / "run.json").read_text())
    assert [(result["suite"], result["target"]) for result in found["results"]] == [("faq", "ours"), ("faq", "base")]
    assert found["data"] == {"faq": SUITES["faq"].digest(faq)}
    assert found["comparisons"][0]["a"] == "ours"
    assert found["targets"][0]["model"] == "embedserve/demo"
    assert found["targets"][0]["tokens"] > 0
    for word in ("faq", "MRR", "ours", "base", "significant", "run.json"):
        assert word in first.stdout, word
    assert first.stderr == ""  # no bar where there is no terminal
    # Again, from what is kept, compared with the first.
    earlier = ("--compare", str(tmp_path / "one" / "run.json"))
    second = run(*targets, *common, *earlier, "--out", str(tmp_path / "two"))
    assert second.exit_code == 0, second.output
    again = json.loads((tmp_path / "two" / "run.json").read_text())
    assert again["targets"][0]["requests"] == 0
    for key in ("version", "seed", "data", "results", "comparisons", "failures"):
        assert again[key] == found[key], key


def test_wrong_rows_are_said_by_line_before_anything_is_sent(faq: Path, tmp_path: Path) -> None:
    with (faq / "queries.csv").open("a") as file:
        file.write("q98,,e1\nq99,what,e999\n")
    with Hosted.running() as hosted:
        done = run(
            "--target", f"a={hosted.url}", "--suite", "faq", "--data", f"faq={faq}", "--out", str(tmp_path / "out")
        )
        assert not hosted.bodies
    assert done.exit_code == 2
    assert f"--data faq={faq} can't be used, and nothing was sent:\n" in done.stderr
    assert "queries.csv:30: " in done.stderr
    assert "queries.csv:31: there is no entry 'e999'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_failing_target_is_reported_beside_the_others(faq: Path, tmp_path: Path) -> None:
    with Hosted.running(key=SECRET) as hosted:
        done = run(
            *("--target", f"a=openai:{hosted.url},model=words-1,key-env=WRONG", "--target", "base=tfidf", "--no-cache"),
            *("--suite", "faq", "--data", f"faq={faq}", "--out", str(tmp_path)),
            env={"WRONG": "sk-wrong-0123456789"},
        )
    assert done.exit_code == 1, done.output
    found = json.loads((tmp_path / "run.json").read_text())
    assert "refuses the key in WRONG (status 401)" in found["failures"]["a/faq"]
    assert "refuses the key in WRONG" in done.stderr
    assert [result["target"] for result in found["results"]] == ["base"]
    for text in (done.output, *(path.read_text() for path in tmp_path.glob("re*.*")), json.dumps(found)):
        assert "sk-wro" not in text


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_where_it_was(blow: signal.Signals, faq: Path, tmp_path: Path) -> None:
    with Hosted.running(delay=0.03) as hosted:
        arguments = (
            *("--target", f"a=openai:{hosted.url},batch=1", "--concurrency", "2", "--cache", str(tmp_path / "kept")),
            *("--suite", "faq", "--data", f"faq={faq}", "--out", str(tmp_path / "out")),
        )
        process = start(*arguments)
        while hosted.answered < 12:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(blow)
        out, err = process.communicate(timeout=60)
        assert not (tmp_path / "out" / "run.json").exists()
        if blow == signal.SIGINT:
            assert process.returncode == 130, out + err
            assert "the same command goes on from there" in err
        again = run(*arguments)
        assert again.exit_code == 0, again.output
        asked = Counter(text for body in hosted.bodies for text in body["input"])
    assert asked.pop(PROBE) == 2
    assert len(asked) == 56
    # Twice only what was under way at the blow; where the user asked for the end, that was waited for and kept.
    twice = sum(count - 1 for count in asked.values())
    assert twice <= (4 if blow == signal.SIGKILL else 0)
    found = json.loads((tmp_path / "out" / "run.json").read_text())
    assert found["targets"][0]["cached"] >= 8
    assert found["targets"][0]["texts"] == 56


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --target"),
        (["--target", "one"], "isn't NAME=URL"),
        (["--target", "a=tfidf", "--target", "a=tfidf"], "same name"),
        (["--target", "a=tfidf", "--suite", "fag"], "Unknown suite fag; there are pairs"),
        (["--target", "a=tfidf", "--suite", ","], "--suite names none"),
        (["--target", "a=tfidf", "--data", "faq"], "isn't SUITE=FOLDER"),
        (["--target", "a=tfidf", "--data", "fag=/tmp"], "unknown suite fag"),
        (["--target", "a=tfidf", "--suite", "pairs", "--data", "faq=/tmp"], "add --suite faq"),
        (["--target", "a=tfidf", "--data", "faq=/tmp", "--data", "faq=/tmp"], "faq is there twice"),
        (["--target", "a=tfidf", "--data", "faq=/there/is/none"], "there is no folder /there/is/none"),
        (["--target", "a=tfidf", "--compare", "/there/is/none"], "/there/is/none: can't be read"),
        (["--target", "a=tfidf", "--prices", "/there/is/none"], "price book /there/is/none can't be read"),
        (["--target", "a=tfidf", "--no-cache", "--cache", "x"], "contradict each other"),
        (["--target", "a=tfidf", "--cache", "/proc/none"], "no embeddings can be kept there"),
        (["--target", "a=tfidf", "--no-cache", "--out", "/proc/none"], "/proc/none"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_the_list_names_all_suites() -> None:
    done = run("--list")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(SUITES)
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())
