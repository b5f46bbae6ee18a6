"""The training texts as plain data, and the part of them that is held out while settings are being chosen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

LANGUAGES = ("zh", "en", "ja", "es")


@dataclass(frozen=True, slots=True)
class Statement:
    """The same statement in each of `LANGUAGES`. `theme` is finer than `topic`; None where it isn't labelled."""

    id: str
    topic: str
    texts: tuple[str, ...]
    theme: str | None


@dataclass(frozen=True, slots=True)
class Triple:
    """A query, a text that answers it, and one that looks as if it did. `task` is the instruction, None for plain search."""

    id: str
    query: str
    positive: str
    negative: str
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment in as many languages as there are: what is thought, and of what kind of place or product; None where unlabelled."""

    texts: tuple[str, ...]
    sentiment: str | None
    subject: str | None


@dataclass(frozen=True, slots=True)
class Texts:
    """All there is to train on."""

    statements: tuple[Statement, ...]
    paraphrases: tuple[tuple[str, str], ...]
    queries: tuple[Triple, ...]
    instructed: tuple[tuple[Triple, Triple], ...]
    """Each query under two tasks, positive and negative swapped: sentiment or its like first, subject second."""
    comments: tuple[Comment, ...]

    def all(self) -> list[str]:
        """Every text once, in the order of the files."""
        found = [text for one in self.statements for text in one.texts]
        found += [text for pair in self.paraphrases for text in pair]
        triples = [*self.queries, *(triple for pair in self.instructed for triple in pair)]
        found += [text for one in triples for text in (one.query, one.positive, one.negative, one.task or "")]
        return list(dict.fromkeys(found))

    def groups(self) -> list[tuple[str, ...]]:
        """Texts that belong together, whatever the task."""
        found: list[tuple[str, ...]] = [one.texts for one in self.statements]
        found += self.paraphrases
        found += [(one.query, one.positive) for one in self.queries]
        return found


def read_texts() -> tuple[Texts, Texts]:
    """The texts to train on, and those held out: about a tenth, by the hash of their ids."""
    labels = {line["id"]: line for line in _lines("comments")}
    themes = {line["id"]: line["theme"] for line in _lines("themes")}
    lines = {name: _lines(name) for name in ("parallel", "paraphrases", "queries", "instructed")}
    pairs = list(zip(lines["instructed"][::2], lines["instructed"][1::2], strict=True))

    def part(held_out: bool) -> Texts:
        def mine(line: dict[str, Any]) -> bool:
            return (hashlib.sha256(line["id"].encode()).digest()[0] < 26) is held_out

        chosen = [pair for pair in pairs if mine(pair[0])]
        comments = [
            (line["id"], tuple(line[language] for language in LANGUAGES)) for line in lines["parallel"] if mine(line)
        ]
        for first, _ in chosen:
            kinds = (("", "query"), ("-positive", "positive"), ("-negative", "negative"))
            comments += [(first["id"] + ending, (first[name],)) for ending, name in kinds]
        return Texts(
            tuple(
                Statement(
                    line["id"],
                    line["topic"],
                    tuple(line[language] for language in LANGUAGES),
                    themes.get(line["id"]),
                )
                for line in lines["parallel"]
                if mine(line)
            ),
            tuple((line["text1"], line["text2"]) for line in lines["paraphrases"] if mine(line)),
            tuple(_triple(line) for line in lines["queries"] if mine(line)),
            tuple((_triple(first), _triple(second)) for first, second in chosen),
            tuple(
                Comment(of, labels[name].get("sentiment"), labels[name].get("subject"))
                for name, of in comments
                if name in labels
            ),
        )

    return part(False), part(True)


def joined(first: Texts, second: Texts) -> Texts:
    """Both parts as one."""
    return Texts(
        first.statements + second.statements,
        first.paraphrases + second.paraphrases,
        first.queries + second.queries,
        first.instructed + second.instructed,
        first.comments + second.comments,
    )


def _triple(line: dict[str, Any]) -> Triple:
    return Triple(line["id"], line["query"], line["positive"], line["negative"], line.get("task"))


def _lines(name: str) -> list[dict[str, Any]]:
    text = (files("serve_app.training") / "data" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
