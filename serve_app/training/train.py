"""Training of the demo model: a loop over batches of one task each."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer

from serve_app.engine.demo_tokenizer import demo_tokenizer
from serve_app.engine.model_config import ModelConfig
from serve_app.training import prompts
from serve_app.training.batches import Batches
from serve_app.training.loss import contrastive
from serve_app.training.model import Embedder
from serve_app.training.semantics import token_meanings
from serve_app.training.texts import Texts
from serve_app.types import Vectors

_LOG = logging.getLogger(__name__)

CLASSES = {"topic", "theme", "comments"}
"""Tasks where a text has many positives."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What was chosen on the held-out texts."""

    config: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            8192, 128, 256, 4, 4, 2, 64, max_position_embeddings=32768, dtype="bfloat16"
        )
    )
    steps: int = 1200
    batch: int = 256
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.05
    dropout: float = 0.15
    embedding_scale: float = 0.1
    temperature: float = 0.05
    class_temperature: float = 0.1
    dims: tuple[int, ...] = (32, 64, 128)
    average: float = 0.995
    seed: int = 0


class Trained:
    """A tokenizer and a model that belong together."""

    def __init__(self, tokenizer: Tokenizer, model: Embedder) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1, float32 [len(texts), hidden]."""
        self.model.eval()
        vectors = self.model([each.ids for each in self.tokenizer.encode_batch(list(texts))])
        return np.asarray(torch.nn.functional.normalize(vectors, dim=-1).numpy())


def train(texts: Texts, settings: Settings, report: Callable[[int, Trained], None] | None = None) -> Trained:
    """Train from scratch. The same texts, settings, library versions and processor give the same weights.

    `report` is called now and then with the step and the averaged model.
    """
    torch.manual_seed(settings.seed)
    vocabulary = [*texts.all(), *(prompts.instructed(task, "") for task in every_prompt())]
    tokenizer = demo_tokenizer(settings.config.vocab_size, texts=vocabulary)
    model = Embedder(settings.config, dropout=settings.dropout, embedding_scale=settings.embedding_scale)
    model.start_from(
        token_meanings(tokenizer, texts.groups(), settings.config.hidden_size, settings.seed), settings.embedding_scale
    )
    averaged = copy.deepcopy(model)
    matrices = [each for each in model.parameters() if each.dim() > 1]
    vectors = [each for each in model.parameters() if each.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, settings))
    batches = Batches(texts, settings.batch, settings.seed)
    started = time.monotonic()
    for step in range(settings.steps):
        batch = batches.draw()
        model.train()
        vectors_of = model([each.ids for each in tokenizer.encode_batch(batch.texts)])
        loss = contrastive(
            vectors_of,
            torch.from_numpy(batch.positives),
            torch.from_numpy(batch.ignored),
            dims=settings.dims,
            temperature=settings.class_temperature if batch.task in CLASSES else settings.temperature,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            share = min(settings.average, (1 + step) / (10 + step))
            for kept, new in zip(averaged.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - share)
        if step % 25 == 24:
            _LOG.info("step %d, %.0f s: %s %.3f", step + 1, time.monotonic() - started, batch.task, loss.item())
        if report is not None and step % 100 == 99:
            report(step + 1, Trained(tokenizer, averaged))
    return Trained(tokenizer, averaged)


def every_prompt() -> list[str]:
    """All instructions that are trained with, beside those of the texts."""
    return [prompts.DEFAULT, *prompts.SEARCH, *prompts.SIMILARITY, *prompts.TOPIC, *prompts.SENTIMENT, *prompts.SUBJECT]


def _share(step: int, settings: Settings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
