"""The demo model's training: its data, its maths, and that it can be repeated."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3Model

import serve_app.training
from serve_app.engine.engine import Engine
from serve_app.engine.model_config import ModelConfig
from serve_app.training.__main__ import main
from serve_app.training.batches import Batches
from serve_app.training.checkpoint import write_checkpoint
from serve_app.training.heldout import measure
from serve_app.training.loss import contrastive
from serve_app.training.model import Embedder
from serve_app.training.semantics import token_meanings
from serve_app.training.texts import Texts, joined, read_texts
from serve_app.training.train import CLASSES, Settings, Trained, train
from tests.test_demo import contents

TINY = ModelConfig(1536, 32, 48, 2, 4, 2, 16, max_position_embeddings=512, dtype="bfloat16")


@pytest.fixture(scope="module")
def parts() -> tuple[Texts, Texts]:
    return read_texts()


@pytest.fixture(scope="module")
def trained(parts: tuple[Texts, Texts]) -> Trained:
    return train(parts[0], replace(Settings(), config=TINY, steps=12, batch=24, dims=(16, 32)))


def test_a_tenth_is_held_out(parts: tuple[Texts, Texts]) -> None:
    known, held_out = parts
    for ours, others in (
        (known.statements, held_out.statements),
        (known.queries, held_out.queries),
        (known.instructed, held_out.instructed),
        (known.paraphrases, held_out.paraphrases),
    ):
        assert 0.05 < len(others) / (len(ours) + len(others)) < 0.15
        assert not set(ours) & set(others)  # type: ignore[operator]
    assert len(joined(known, held_out).all()) == len({*known.all(), *held_out.all()})


def test_labels_are_of_texts_that_exist(parts: tuple[Texts, Texts]) -> None:
    every = joined(*parts)
    assert sum(one.theme is not None for one in every.statements) == 829
    assert len(every.comments) == 864
    for first, second in every.instructed:
        assert (first.query, first.positive, first.negative) == (second.query, second.negative, second.positive)


def test_nothing_in_training_reads_the_evaluation_texts() -> None:
    sources = list(Path(serve_app.training.__file__).parent.glob("*.py"))
    assert len(sources) > 5
    for file in sources:
        assert "evals" not in file.read_text(encoding="utf-8"), file


def test_batches_are_the_same_for_a_seed_and_their_masks_agree(parts: tuple[Texts, Texts]) -> None:
    first, second = (Batches(parts[0], 48, seed=3) for _ in range(2))
    seen = set()
    for _ in range(60):
        batch, again = first.draw(), second.draw()
        assert batch.texts == again.texts
        assert np.array_equal(batch.positives, again.positives)
        assert not (batch.positives & batch.ignored).any()
        anchors = batch.positives.any(1)
        assert anchors.sum() >= 3
        negatives = ~(batch.positives | batch.ignored)
        assert negatives[anchors].any(1).all()
        assert not np.diag(negatives).any()
        seen.add(batch.task)
    assert Batches(parts[0], 48, seed=4).draw().texts != Batches(parts[0], 48, seed=3).draw().texts
    assert seen >= CLASSES | {"parallel", "spans", "search", "instructed"}


def test_the_loss_is_infonce() -> None:
    vectors = torch.tensor([[1.0, 0.0, 3.0], [0.8, 0.6, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 9.0]])
    positives, ignored = torch.zeros(4, 4, dtype=torch.bool), torch.eye(4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    ignored[0, 3] = True
    found = contrastive(vectors, positives, ignored, dims=(2,), temperature=0.5)

    def of(right: float, *wrong: float) -> float:
        return -math.log(math.exp(right / 0.5) / sum(math.exp(score / 0.5) for score in (right, *wrong)))

    assert found.item() == pytest.approx((of(0.8, 0.0) + of(0.8, 0.6, -0.8)) / 2, rel=1e-5)
    both = contrastive(vectors, positives, ignored, dims=(2, 3), temperature=0.5)
    alone = contrastive(vectors, positives, ignored, dims=(3,), temperature=0.5)
    assert both.item() == pytest.approx((found.item() + alone.item()) / 2, rel=1e-5)


def test_values_and_gradients_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    model = Embedder(TINY, dropout=0.0, embedding_scale=1.0)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    fields = {name: getattr(TINY, name) for name in TINY.__slots__ if name not in {"dtype", "rope_theta"}}
    rope = {"rope_type": "default", "rope_theta": TINY.rope_theta}
    reference = Qwen3Model(Qwen3Config(**fields, rope_parameters=rope))
    reference.load_state_dict({name: model.tensor(name).data for name in reference.state_dict()})
    ids = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 90, 1500], [3]]
    found = model(ids)
    wanted = torch.cat([reference(torch.tensor([one])).last_hidden_state[:, -1] for one in ids])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    found.sin().sum().backward()
    wanted.sin().sum().backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(model.tensor(name).grad, parameter.grad, atol=2e-4, rtol=2e-4, msg=name)


def test_tokens_that_mean_the_same_begin_alike(parts: tuple[Texts, Texts], trained: Trained) -> None:
    groups = [("red", "rot"), ("red car", "rot auto"), ("old car", "alt auto"), ("old", "alt"), ("new", "neu")]
    meanings = token_meanings(trained.tokenizer, groups, 5, seed=0)

    def of(text: str) -> torch.Tensor:
        ids = trained.tokenizer.encode(text, add_special_tokens=False).ids
        return torch.nn.functional.normalize(meanings[ids].sum(0), dim=0)

    assert of("new") @ of("neu") > 0.9 > of("new") @ of("rot") + 0.5


def test_training_learns(parts: tuple[Texts, Texts], trained: Trained) -> None:
    found = measure(parts[1], trained.encode)
    assert set(found) >= {"parallel", "search", "instructed-a", "sentiment"}
    assert found["parallel"] > 10 / len(parts[1].statements)  # by chance: 1


def test_served_as_it_was_trained(trained: Trained, tmp_path: Path) -> None:
    engine = Engine.load(str(write_checkpoint(tmp_path, trained)), device="cpu")
    ids = [np.array(trained.tokenizer.encode(text).ids, np.int32) for text in ("Hello", "東京の天気")]
    for parameter in trained.model.parameters():  # as they are stored
        parameter.data = parameter.data.bfloat16().float()
    np.testing.assert_allclose(engine.encode(ids), trained.encode(["Hello", "東京の天気"]), atol=1e-5)


def test_the_same_bytes_again(parts: tuple[Texts, Texts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, held_out = parts
    fewer = replace(known, statements=known.statements[::8], queries=known.queries[::8])
    monkeypatch.setattr("serve_app.training.__main__.read_texts", lambda: (fewer, held_out))
    monkeypatch.setattr(
        "serve_app.training.__main__.Settings", lambda: replace(Settings(), config=TINY, batch=24, dims=(16, 32))
    )
    for name in ("first", "again"):
        main(["--out", str(tmp_path / name), "--steps", "3", "--threads", "1"])
    assert contents(tmp_path / "first") == contents(tmp_path / "again")


def test_texts_come_back_in_their_order() -> None:
    """Texts of a batch go through in chunks by length and come back in their own order."""
    torch.manual_seed(0)
    model = Embedder(TINY, dropout=0.0, embedding_scale=1.0).eval()
    ids = [list(range(1, 2 + n % 7)) for n in range(20)]
    whole = model(ids)
    torch.testing.assert_close(whole, torch.cat([model([one]) for one in ids]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, model(ids, chunk=3), atol=1e-5, rtol=1e-5)
