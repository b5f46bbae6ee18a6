"""How good a model is on the texts that were held out: what settings are chosen by, never the evaluation texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from serve_app.training import prompts
from serve_app.training.batches import UNSORTED
from serve_app.training.prompts import instructed
from serve_app.training.texts import Texts
from serve_app.types import Vectors


def measure(texts: Texts, encode: Callable[[Sequence[str]], Vectors]) -> dict[str, float]:
    """Shares of 1, all of them better when higher.

    `parallel`: of a statement's neighbours among all held-out ones in another language, the nearest is its translation;
    `parallel32`: by the first 32 dimensions. `search`: MRR of a query's answer among all answers; `triples`: the answer comes before
    the text that only looks like it. `instructed-a`, `instructed-b`: the same under a query's first and second task.
    `topic`, `theme`, `sentiment`, `subject`: how many of the ten nearest texts, in whatever language, have the query's label.
    """
    found: dict[str, float] = {}
    vectors = [encode([one.texts[language] for one in texts.statements]) for language in range(4)]
    for name, dims in (("parallel", None), ("parallel32", 32)):
        cut = [_unit(each[:, :dims]) for each in vectors]
        right = [
            (a @ b.T).argmax(1) == np.arange(len(a)) for i, a in enumerate(cut) for j, b in enumerate(cut) if i != j
        ]
        found[name] = float(np.mean(right))
    queries = encode([instructed(prompts.DEFAULT, one.query) for one in texts.queries])
    documents = encode([one.positive for one in texts.queries] + [one.negative for one in texts.queries])
    scores = queries @ documents.T
    own = scores[np.arange(len(queries)), np.arange(len(queries))]
    found["search"] = float(np.mean(1 / (1 + (scores > own[:, None]).sum(1))))
    found["triples"] = float(np.mean(own > scores[np.arange(len(queries)), np.arange(len(queries)) + len(queries)]))
    for place, name in ((0, "instructed-a"), (1, "instructed-b")):
        pairs = [pair[place] for pair in texts.instructed]
        asked = encode([instructed(one.task or "", one.query) for one in pairs])
        apart = encode([one.positive for one in pairs]) - encode([one.negative for one in pairs])
        found[name] = float(np.mean((asked * apart).sum(1) > 0))
    chosen = [i for i, one in enumerate(texts.statements) if one.topic not in UNSORTED]
    topics = np.array([texts.statements[i].topic for i in chosen] * 4)
    asked = encode([instructed(prompts.DEFAULT, texts.statements[i].texts[k]) for k in range(4) for i in chosen])
    found["topic"] = _nearest(asked, np.concatenate([each[chosen] for each in vectors]), topics, np.array(chosen * 4))
    chosen = [i for i, one in enumerate(texts.statements) if one.theme]
    themes = np.array([texts.statements[i].theme for i in chosen] * 4)
    asked = encode([instructed(prompts.DEFAULT, texts.statements[i].texts[k]) for k in range(4) for i in chosen])
    found["theme"] = _nearest(asked, np.concatenate([each[chosen] for each in vectors]), themes, np.array(chosen * 4))
    for name, task in (("sentiment", prompts.SENTIMENT[0]), ("subject", prompts.SUBJECT[0])):
        comments = [
            (text, getattr(one, name), number)
            for number, one in enumerate(texts.comments)
            if getattr(one, name)
            for text in one.texts
        ]
        asked = encode([instructed(task, text) for text, _, _ in comments])
        documents = encode([text for text, _, _ in comments])
        labels, ids = np.array([label for _, label, _ in comments]), np.array([number for _, _, number in comments])
        found[name] = _nearest(asked, documents, labels, ids)
    return found


def _nearest(queries: Vectors, documents: Vectors, labels: np.ndarray, ids: np.ndarray) -> float:
    scores = queries @ documents.T
    scores[ids[:, None] == ids[None, :]] = -2
    best = np.argsort(-scores, 1, kind="stable")[:, :10]
    return float((labels[best] == labels[:, None]).mean())


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
