"""Deliberate defects of a service, each of which visibly lowers what a suite finds of the demo model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from serve_app.api.prompts import prompt_for
from serve_app.engine.engine import Engine
from serve_app.engine.packing import PackedBatch, Packing
from serve_app.evals.encoder import Role, Vectors
from serve_app.evals.result import SuiteResult
from serve_app.evals.suites import SUITES
from serve_app.types import DEMO_MODEL_ID, TokenIds
from serve_app.verify import local
from tests.reference import tokenizer

AT_ONCE = 32
"""Texts in one forward pass, as a service merges what waits."""


def as_asked(role: Role, instruction: str | None) -> str:
    """What our target puts before a text."""
    return prompt_for(instruction) if instruction and role is not Role.DOCUMENT else ""


@dataclass
class InProcess:
    """What a service does with a text, from the prompt to the reply, with each part open to be replaced."""

    engine: Engine
    prompt: Callable[[Role, str | None], str] = as_asked
    tokenize: Callable[[list[str]], list[TokenIds]] = tokenizer().encode_batch
    name: str = "demo"

    def prepare(self, texts: Sequence[str]) -> None:
        pass

    def encode(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        ids = self.tokenize([self.prompt(role, instruction) + text for text in texts])
        parts = [self.engine.encode(ids[at : at + AT_ONCE]) for at in range(0, len(ids), AT_ONCE)]
        return np.concatenate(parts)


def engine() -> Engine:
    return Engine.load(DEMO_MODEL_ID, device="cpu", prefix_cache_mb=0)


def mean_pooling() -> InProcess:
    broken = engine()

    def forward(batch: PackedBatch) -> torch.Tensor:
        parts = broken.model.every_token(batch).split(list(batch.whole.lengths))
        return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)

    broken.model.forward = forward  # type: ignore[method-assign]
    return InProcess(broken)


def off_by_one() -> InProcess:
    broken = engine()
    forward = broken.model.forward
    broken.model.forward = lambda batch: forward(replace(batch, last=batch.last - 1))  # type: ignore[method-assign]
    return InProcess(broken)


def batch_leakage() -> InProcess:
    """Texts of a batch attend to those before them, in all layers but the last."""
    broken = engine()
    attention = broken.model.attention

    class Leaking:
        pooled = staticmethod(attention.pooled)

        def causal(self, query: Any, key: Any, value: Any, packing: Packing, layer: int, out: Any) -> Any:
            return attention.causal(query, key, value, Packing([packing.tokens]), layer, out)

    broken.model.attention = Leaking()
    return InProcess(broken)


def no_end_token() -> InProcess:
    return InProcess(
        engine(), tokenize=lambda texts: [ids[:-1] if len(ids) > 1 else ids for ids in tokenizer().encode_batch(texts)]
    )


def wrong_prompt() -> InProcess:
    """Requests get each other's instruction."""
    [data] = SUITES["instruction"].load(None)
    others = {task.instruction: task.wrong_instruction for task in data.tasks}

    def prompt(role: Role, instruction: str | None) -> str:
        return as_asked(role, others.get(instruction or "", instruction))

    return InProcess(engine(), prompt=prompt)


@cache
def found(make: Callable[[], InProcess], suite: str) -> SuiteResult:
    chosen = SUITES[suite]
    return chosen.measure(chosen.load(None), make(), seed=0)


def healthy() -> InProcess:
    return InProcess(engine())


def drop(before: Callable[[], InProcess], after: Callable[[], InProcess], suite: str) -> tuple[float, float]:
    """By how much the headline is lower, over the same queries, and the standard error of that."""
    a, b = found(before, suite), found(after, suite)
    values = [np.array(result.samples[result.headline].values) for result in (a, b)]
    difference = values[0] - values[1]
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


@pytest.mark.parametrize(
    ("defect", "sound", "suite", "least"),
    [
        (mean_pooling, healthy, "crosslingual", 0.3),
        (no_end_token, healthy, "crosslingual", 0.3),
        (off_by_one, healthy, "crosslingual", 0.3),
        (batch_leakage, healthy, "crosslingual", 0.3),
        (wrong_prompt, healthy, "instruction", 0.2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_suite_sees_it(
    defect: Callable[[], InProcess], sound: Callable[[], InProcess], suite: str, least: float
) -> None:
    lower, error = drop(sound, defect, suite)
    assert lower > least
    assert lower > 5 * error


@pytest.mark.parametrize("suite", ["crosslingual", "instruction"])
def test_a_sound_service_loses_nothing(suite: str) -> None:
    """Other batches and an engine of its own: the same figures."""

    def again() -> InProcess:
        return InProcess(engine(), tokenize=lambda texts: [ids.copy() for ids in tokenizer().encode_batch(texts)])

    lower, _ = drop(healthy, again, suite)
    assert lower == pytest.approx(0, abs=1e-9)
    assert found(healthy, "crosslingual").figures[0].value > 0.7


def test_vectors_that_are_cut_and_not_normalised_again_are_seen_by_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ranking shows it, and targets of suites normalise what they get."""
    vectors = engine().encode(tokenizer().encode_batch(["Hello", "地震で家屋が倒壊"]))
    assert local.check_dimensions(vectors).passed
    monkeypatch.setattr(local, "matryoshka", lambda vectors, dimensions: vectors[:, :dimensions])
    assert not local.check_dimensions(vectors).passed
