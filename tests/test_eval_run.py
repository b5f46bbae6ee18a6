"""Targets through suites: what a run holds when all goes well, and when it doesn't."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from serve_app.evals.cache import Cache
from serve_app.evals.encoder import Encoder, Role
from serve_app.evals.result import Comparison, Figure, Run, Samples, SuiteResult
from serve_app.evals.run import Loaded, Measured, evaluate
from serve_app.evals.target import Target
from serve_app.evals.target_encoder import TargetEncoder
from serve_app.evals.target_kinds import backend_of
from tests.hosted import Hosted

TIMING = {"seconds", "latency_p50", "latency_p95", "cached", "requests"}
"""What of a target may differ between two equal runs, beside `started` and `command`."""


class Nearest:
    """A suite of its own: is a text nearer to itself in capitals than to any other?"""

    def __init__(self, name: str, texts: Sequence[str]) -> None:
        self.name = name
        self._texts = list(texts)

    def texts(self, data: Any) -> list[str]:
        return [*self._texts, *map(str.upper, self._texts)]

    def measure(self, data: Any, encoder: Encoder, *, seed: int = 0) -> SuiteResult:
        documents = encoder.encode(self._texts, Role.DOCUMENT)
        queries = encoder.encode([text.upper() for text in self._texts], Role.QUERY, "Find the same text")
        hits = (queries @ documents.T).argmax(axis=1) == np.arange(len(self._texts))
        values = hits.astype(float).tolist()
        figure = Figure("top-1", float(hits.mean()), n=len(values), samples="top-1")
        return SuiteResult(self.name, encoder.name, "top-1", [figure], {"top-1": Samples(self._texts, values)})


class Watched:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self.warned: list[str] = []

    def begins(self, target: str, suite: str) -> None:
        pass

    def ends(self, target: str, suite: str, result: SuiteResult | str) -> None:
        self.heard.append((target, suite, isinstance(result, SuiteResult)))

    def warns(self, warning: str) -> None:
        self.warned.append(warning)


FRUIT = Nearest("fruit", ["apple pie", "banana bread", "cherry cake"])
TREES = Nearest("trees", ["tall oak", "white birch"])


def compared(results: Sequence[SuiteResult], seed: int) -> list[Comparison]:
    """Not a test, but shows what was asked for."""
    means = {result.target: result.figures[0].value for result in results}
    return (
        [Comparison(",".join(r.suite for r in results), "top-1", "", *means, 0, 0, 0, 1.0, seed, False)]
        if len(means) == 2
        else []
    )


def run(*targets: str, cache: Path | None = None, seed: int = 0, watcher: Watched | None = None) -> Run:
    suites = [Loaded(suite, None, f"sha of {suite.name}") for suite in (FRUIT, TREES)]
    with Cache(cache) as kept:
        chosen = [Target.of(text, {}) for text in targets]
        measured = [Measured(TargetEncoder(each, backend_of(each), kept), each.price) for each in chosen]
        return evaluate(
            measured, suites, compared, watcher or Watched(), seed=seed, started="now", command=["embedserve", "eval"]
        )


def plain(found: Run) -> dict[str, Any]:
    """As in the file, without what may differ."""
    whole: dict[str, Any] = msgspec.to_builtins(found)
    whole["targets"] = [{k: v for k, v in use.items() if k not in TIMING} for use in whole["targets"]]
    return whole


def test_all_targets_go_through_all_suites() -> None:
    watcher = Watched()
    with Hosted.running() as hosted:
        found = run(f"a=openai:{hosted.url},price=2", "base=tfidf", seed=7, watcher=watcher)
    assert [(result.target, result.suite) for result in found.results] == [
        ("a", "fruit"),
        ("a", "trees"),
        ("base", "fruit"),
        ("base", "trees"),
    ]
    assert watcher.heard == [(target, suite, True) for target in ("a", "base") for suite in ("fruit", "trees")]
    assert [result.figures[0].value for result in found.results if result.target == "base"] == [1, 1]
    assert [use.name for use in found.targets] == ["a", "base"]
    assert found.targets[0].usd == pytest.approx(20 * 2 / 1e6)
    assert found.data == {"fruit": "sha of fruit", "trees": "sha of trees"}
    assert [(test.a, test.b, test.n) for test in found.comparisons] == [("a", "base", 7)]
    assert not found.failures
    assert found.seed == 7


def test_the_same_twice_but_for_what_is_timed(tmp_path: Path) -> None:
    with Hosted.running() as hosted:
        targets = (f"a=openai:{hosted.url},price=2", "base=tfidf")
        first, second, third = run(*targets, cache=tmp_path), run(*targets, cache=tmp_path), run(*targets)
    assert plain(first) == plain(second) == plain(third)
    assert [found.targets[0].cached for found in (first, second, third)] == [0, 10, 0]
    assert second.targets[0].requests == 0
    assert second.targets[0].latency_p50 is None


def test_one_target_that_fails_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.evals.openai_target.RETRIES", 0)

    def trouble(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]] | None:
        return (400, b'{"error": {"message": "no fruit"}}', {}) if "apple pie" in body["input"] else None

    with Hosted.running(trouble=trouble) as hosted:
        found = run(f"a=openai:{hosted.url}", "away=http://127.0.0.1:9", "base=tfidf")
    assert set(found.failures) == {"a/fruit", "away/fruit", "away/trees"}
    assert "status 400: no fruit" in found.failures["a/fruit"]
    assert "can't be reached" in found.failures["away/trees"]
    assert [(result.target, result.suite) for result in found.results] == [
        ("a", "trees"),
        ("base", "fruit"),
        ("base", "trees"),
    ]
    assert [use.name for use in found.targets] == ["a", "away", "base"]


def test_who_is_gone_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def trouble(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]] | None:
        return (401, b"{}", {}) if "apple pie" in body["input"] else None

    with Hosted.running(trouble=trouble) as hosted:
        found = run(f"a=openai:{hosted.url}")
        assert len(hosted.bodies) == 2  # the probe, and what was refused
    assert set(found.failures) == {"a/fruit", "a/trees"}


def test_a_model_that_changes_meanwhile_is_said() -> None:
    def other(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]] | None:
        # The fifth request is the probe again: after it and two suites of two lists each.
        item = {"object": "embedding", "index": 0, "embedding": [1.0] + [0.0] * 7}
        return (200, msgspec.json.encode({"object": "list", "data": [item]}), {}) if len(hosted.bodies) > 5 else None

    watcher = Watched()
    with Hosted.running() as hosted:
        same = run(f"a=openai:{hosted.url}", watcher=watcher)
        assert not watcher.warned
        hosted.bodies.clear()
        hosted.trouble = other
        changed = run(f"a=openai:{hosted.url}", watcher=watcher)
    assert watcher.warned == [f"a: {changed.targets[0].notes[-1]}"]
    assert "changed while it was measured" in watcher.warned[0]
    assert len(same.targets[0].notes) == len(changed.targets[0].notes) - 1
