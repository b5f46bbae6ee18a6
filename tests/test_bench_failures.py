"""The engine benchmark where a contestant fails or time is short: the others have their rows, and the report is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from loadtest import bench_engine, engine_rounds
from loadtest.engine_contestants import SentenceTransformers, best_batch_size
from loadtest.engine_failures import Failures
from tests.test_bench_engine import RATES, SHORT, run, without_ceilings

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ceilings(monkeypatch)


def names(case: Any) -> list[str]:
    return [row["name"] for row in case["results"]]


def test_who_fails_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = engine_rounds.ours

    def no_bfloat16(config: Any, weights: Any, dtype: str, tokens: int | None) -> Any:
        if dtype == "bfloat16":
            raise RuntimeError("no kernel image\nmore")
        return made(config, weights, dtype, tokens)

    def over_memory(self: SentenceTransformers, texts: list[str], size: int) -> Any:
        if len(texts) > 1 and texts[0] != "one":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0

    monkeypatch.setattr(engine_rounds, "ours", no_bfloat16)
    monkeypatch.setattr(SentenceTransformers, "__call__", over_memory)
    report: Any = run(monkeypatch, bench_engine, tmp_path / "r.json", *SHORT, "--ids")
    assert report["failed"] == {"ours bfloat16": "RuntimeError: no kernel image"}
    assert [case["name"] for case in report["cases"]] == ["16", "mix", "queries"]
    for case in report["cases"]:
        assert names(case) == ["ours float32", "ours float32, from ids", "transformers", "products"]
        assert case["failed"] == {"sentence-transformers": "OutOfMemoryError: CUDA out of memory"}
    printed = capsys.readouterr().out
    assert "Failed: ours bfloat16: RuntimeError: no kernel image" in printed
    assert "Failed: sentence-transformers, mix: OutOfMemoryError" in printed


def test_a_run_that_is_cut_short_leaves_what_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = engine_rounds.Rounds.run

    def killed(self: Any, case: Any) -> Any:
        if case.name == "mix":
            raise KeyboardInterrupt
        return done(self, case)

    monkeypatch.setattr(engine_rounds.Rounds, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, bench_engine, tmp_path / "r.json", *SHORT)
    assert [case["name"] for case in json.loads((tmp_path / "r.json").read_text())["cases"]] == ["16"]
    monkeypatch.setattr(engine_rounds.Rounds, "run", done)
    report: Any = run(monkeypatch, bench_engine, tmp_path / "r.json", *SHORT, "--minutes", "0")
    assert report["cases"] == []
    assert set(report["left_out"]) == {"16", "mix", "queries"}


def test_a_dtype_without_a_ceiling_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_bfloat16(config: Any, device: Any, dtype: str, *_: Any) -> Any:
        if dtype == "bfloat16":
            raise RuntimeError("no bfloat16 product runs")
        return RATES

    monkeypatch.setattr(bench_engine, "product_rates", no_bfloat16)
    report: Any = run(monkeypatch, bench_engine, tmp_path / "r.json", *SHORT, "--minutes", "0")
    assert report["dtypes"] == ["float32"]
    assert list(report["failed"]) == ["ours bfloat16"]


@pytest.mark.parametrize(
    ("texts", "cost", "tried", "best"),
    [
        (100, {8: 3.0, 32: 1.0, 128: 1.1, 512: 0.5}, [8, 32, 128], 32),  # one call takes them all
        (1000, {8: 1.0, 32: 2.0, 128: 0.1, 512: 0.1}, [8, 32], 8),  # larger ones get slower
        (1000, {8: 2.0, 32: 1.0, 128: -1.0, 512: 0.1}, [8, 32, 128], 32),  # and don't fit
    ],
)
def test_batch_sizes_are_tried_while_there_is_hope(
    texts: int, cost: dict[int, float], tried: list[int], best: int
) -> None:
    asked: list[int] = []

    def contestant(_: list[str], size: int) -> Any:
        asked.append(size)
        if cost[size] < 0:
            raise torch.OutOfMemoryError

    def seconds(call: Any) -> float:
        call()
        return cost[asked[-1]]

    assert best_batch_size(contestant, ["text"] * texts, [512, 8, 32, 128], seconds) == best
    assert asked == tried


def test_a_contestant_that_fits_with_no_batch_size_fails() -> None:
    def contestant(_: list[str], size: int) -> Any:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        best_batch_size(contestant, ["text"], [8, 32], lambda call: float(call() is None))


def test_failures_keep_the_first_line() -> None:
    failures = Failures()
    for name, error in (("one", ValueError("first\nsecond")), ("other", KeyError())):
        with failures.noted(name):
            raise error
    with failures.noted("fine"):
        pass
    assert failures.of == {"one": "ValueError: first", "other": "KeyError: "}
    assert "one" in failures
    assert "fine" not in failures


def test_gpu_tests_are_found_where_only_torch_and_pytest_are() -> None:
    """As their file says to run them on a bare GPU box: this project's plugins and settings for pytest aren't there."""
    absent = ("ray", "pydantic", "hypothesis", "xdist", "httpx", "psutil", "pytest_asyncio", "orjson")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nimport pytest\n"
        "sys.exit(pytest.main(['-c', '/dev/null', '--noconftest', '--collect-only', '-q', 'tests/test_cuda.py']))"
    )
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "test_launching_waits_for_nothing" in found.stdout
