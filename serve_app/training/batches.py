"""What one training step sees: texts, and which of them belong together. A batch holds one task, so that its negatives are hard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from serve_app.training import prompts
from serve_app.training.prompts import instructed
from serve_app.training.texts import LANGUAGES, Texts

_T = TypeVar("_T")
Mask = npt.NDArray[np.bool_]

UNSORTED = {"daily", "general", "contrast", "queries", "notices", "opinions"}
"""Topics of statements that have little in common."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`texts` with their prompts; `positives[i, j]`: text j is right for text i; `ignored[i, j]`: neither right nor wrong."""

    task: str
    texts: list[str]
    positives: Mask
    ignored: Mask


class Batches:
    """Draws batches of about `size` texts; the same `seed` gives the same ones."""

    def __init__(self, texts: Texts, size: int, seed: int) -> None:
        self._texts = texts
        self._size = size
        self._random = Random(seed)
        self._statements = list(texts.statements)
        self._topics = [one for one in texts.statements if one.topic not in UNSORTED]
        news = {one.topic for one in texts.statements if one.theme} - UNSORTED
        self._news = [one for one in texts.statements if one.theme or one.topic in news]
        self._asked = [one for one in texts.statements if one.theme and one.topic == "queries"]
        self._sentiment_tasks, self._subject_tasks = self._tasks()
        draws: list[tuple[Callable[[], Batch], float]] = [
            (self._parallel, 6),
            (self._spans, 2),
            (self._search, 3),
            (self._paraphrase, 0.5),
            (self._topic, 1),
            (self._theme, 2.5),
            (self._comments, 6),
            (self._instructed, 2),
        ]
        self._draws = [draw for draw, _ in draws]
        self._weights = [weight for _, weight in draws]

    def draw(self) -> Batch:
        """The next batch, of a task drawn by weight."""
        return self._random.choices(self._draws, self._weights)[0]()

    def _tasks(self) -> tuple[list[str], list[str]]:
        labelled = {text for one in self._texts.comments for text in one.texts}
        pairs = [pair for pair in self._texts.instructed if pair[0].query in labelled]
        first, second = ([pair[place].task or "" for pair in pairs] for place in (0, 1))
        return [*prompts.SENTIMENT * 4, *first], [*prompts.SUBJECT * 4, *second]

    def _parallel(self) -> Batch:
        """The same statements in all languages, in one pool: the language mustn't tell."""
        chosen = self._random.sample(self._statements, min(self._size // len(LANGUAGES), len(self._statements)))
        texts = [text for one in chosen for text in one.texts]
        if self._random.random() < 0.25:
            task = self._random.choice(prompts.SIMILARITY)
            texts = [instructed(task, text) for text in texts]
        return _alike("parallel", texts, [number for number in range(len(chosen)) for _ in LANGUAGES])

    def _paraphrase(self) -> Batch:
        chosen = self._sample(self._texts.paraphrases, self._size // 2)
        texts = [text for pair in chosen for text in pair]
        if self._random.random() < 0.25:
            task = self._random.choice(prompts.SIMILARITY)
            texts = [instructed(task, text) for text in texts]
        return _alike("paraphrase", texts, [number for number in range(len(chosen)) for _ in range(2)])

    def _spans(self) -> Batch:
        """Some words of a statement, as a query for the whole of it in any language."""
        chosen = self._random.sample(self._statements, min(self._size // 2, len(self._statements)))
        queries = [self._query(self._span(self._random.choice(one.texts))) for one in chosen]
        texts = queries + [self._random.choice(one.texts) for one in chosen]
        return _alike("spans", texts, [*range(len(chosen))] * 2)

    def _search(self) -> Batch:
        chosen = self._sample(self._texts.queries, self._size // 3)
        texts = [self._query(one.query) for one in chosen]
        texts += [one.positive for one in chosen] + [one.negative for one in chosen]
        n = len(chosen)
        return _alike("search", texts, [*range(n), *range(n), *range(n, 2 * n)])

    def _topic(self) -> Batch:
        """Statements on the same topic; half of them as queries."""
        chosen = self._sample(self._topics, self._size)
        topics = [one.topic for one in chosen]
        half = len(chosen) // 2
        task = self._random.choice(prompts.TOPIC)
        texts = [self._random.choice(one.texts) for one in chosen]
        both = self._random.random() < 0.5
        texts = [instructed(task, text) if both or place < half else text for place, text in enumerate(texts)]
        return self._classes("topic", texts, topics, half, both)

    def _theme(self) -> Batch:
        """News on the same theme among others of its topic; half of them as queries, some of which are worded as such."""
        chosen = self._sample(self._news, self._size)
        half = len(chosen) // 2
        for place in self._random.sample(range(half), min(half // 3, len(self._asked))):
            chosen[place] = self._random.choice(self._asked)
        texts = [self._random.choice(one.texts) for one in chosen]
        texts = [self._query(text) if place < half else text for place, text in enumerate(texts)]
        return self._classes("theme", texts, [one.theme or one.id for one in chosen], half, False)

    def _comments(self) -> Batch:
        """Comments asked for by what is thought or by what is talked about, in one batch, so that the instruction decides."""
        chosen = self._sample(self._texts.comments, self._size)
        half = len(chosen) // 2
        texts, aspects = [self._random.choice(one.texts) for one in chosen], []
        for place, one in enumerate(chosen[:half]):
            by_sentiment = one.subject is None or (one.sentiment is not None and self._random.random() < 0.5)
            aspects.append(by_sentiment)
            tasks = self._sentiment_tasks if by_sentiment else self._subject_tasks
            texts[place] = instructed(self._random.choice(tasks), texts[place])
        n = len(chosen)
        positives, ignored = np.zeros((n, n), bool), np.ones((n, n), bool)
        for place, by_sentiment in enumerate(aspects):
            labels = np.array([(one.sentiment if by_sentiment else one.subject) or "" for one in chosen])
            known = labels != ""
            known[:half] = False
            positives[place] = known & (labels == labels[place])
            ignored[place] = ~known
        return Batch("comments", texts, positives, ignored)

    def _classes(self, name: str, texts: list[str], labels: list[str], half: int, both: bool) -> Batch:
        batch = _alike(name, texts, labels)
        if both:
            return batch
        ignored = np.ones_like(batch.positives)
        ignored[:half, half:] = False
        return Batch(name, texts, batch.positives & ~ignored, ignored)

    def _instructed(self) -> Batch:
        """Queries under both of their tasks; each has only its own two texts to choose from."""
        chosen = self._sample(self._texts.instructed, self._size // 4)
        texts: list[str] = []
        n = 4 * len(chosen)
        positives, ignored = np.zeros((n, n), bool), np.ones((n, n), bool)
        for number, (first, second) in enumerate(chosen):
            at = 4 * number
            texts += [instructed(first.task or "", first.query), instructed(second.task or "", first.query)]
            texts += [first.positive, first.negative]
            positives[at, at + 2] = positives[at + 1, at + 3] = True
            ignored[at : at + 2, at + 2 : at + 4] = False
        return Batch("instructed", texts, positives, ignored)

    def _query(self, text: str) -> str:
        draw = self._random.random()
        if draw < 0.1:
            return text
        return instructed(prompts.DEFAULT if draw < 0.5 else self._random.choice(prompts.SEARCH), text)

    def _span(self, text: str) -> str:
        """30 to 100 % of the words of `text`, in a row; of its characters, if it has no spaces."""
        parts = text.split(" ")
        space = " " if len(parts) > 2 else ""
        parts = parts if space else list(text)
        length = max(1, round(len(parts) * self._random.uniform(0.3, 1.0)))
        start = self._random.randint(0, len(parts) - length)
        return space.join(parts[start : start + length])

    def _sample(self, population: Sequence[_T], count: int) -> list[_T]:
        return self._random.sample(population, min(count, len(population)))


def _alike(name: str, texts: list[str], groups: Sequence[int | str]) -> Batch:
    """Texts of one group belong together; equal texts of different groups are neither right nor wrong."""
    labels = np.array(groups)
    same = labels[:, None] == labels[None, :]
    equal = np.array(texts)[:, None] == np.array(texts)[None, :]
    itself = np.eye(len(texts), dtype=bool)
    return Batch(name, texts, same & ~itself, itself | (equal & ~same))
