"""The same pool labelled in two ways: does naming the task bring what that task wants?

Each comment has a topic and a sentiment. A query is encoded with its task's instruction, with none, and with the other task's; what
shares its label under the task is relevant. Documents are bare.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder, Role, Vectors
from serve_app.evals.metrics import Bools, Floats, ndcg_at, precision_at, ranked_by
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.suite import Suite

HEADLINE = "nDCG@10"
GENERAL = "Given a web search query, retrieve relevant passages that answer the query"


class Text(Struct, frozen=True):
    """`topic` and `sentiment` are the two labels, whatever they mean in a user's own data. One that is no task's may be missing."""

    id: str
    text: str
    topic: str = ""
    sentiment: str = ""


class Task(Struct, frozen=True):
    """`task` is `topic` or `sentiment`."""

    task: str
    instruction: str
    wrong_instruction: str


class Query(Struct, frozen=True):
    id: str
    text: str
    task: str
    label: str


class Data(Struct, frozen=True):
    texts: list[Text]
    tasks: list[Task]
    queries: list[Query]


def _read(folder: Folder) -> Data:
    data = Data(
        folder.read("texts", Text), folder.read("tasks", Task, lambda task: task.task), folder.read("queries", Query)
    )
    for task in data.tasks:
        if task.task not in ("topic", "sentiment"):
            folder.wrong("tasks", task.task, "`task` is 'topic' or 'sentiment'")
            continue
        if task.instruction == task.wrong_instruction:
            folder.wrong("tasks", task.task, "`wrong_instruction` is the same as `instruction`")
        for text in data.texts:
            if not getattr(text, task.task).strip():
                folder.wrong("texts", text.id, f"there is no `{task.task}`, which is a task")
    known = {task.task: {getattr(text, task.task, None) for text in data.texts} for task in data.tasks}
    for query in data.queries:
        if query.task not in known and folder.whole("tasks"):
            folder.wrong("queries", query.id, f"there is no task {query.task!r}")
        elif query.task in known and folder.whole("texts") and query.label not in known[query.task]:
            folder.wrong("queries", query.id, f"no text has the {query.task} {query.label!r}")
    folder.finish()
    return data


def _texts(data: Data) -> list[str]:
    return [*(text.text for text in data.texts), *(query.text for query in data.queries)]


def _relevant(data: Data) -> Bools:
    return np.array([[getattr(text, query.task) == query.label for text in data.texts] for query in data.queries])


def _encode(data: Data, encoder: Encoder, instructions: dict[str, str | None]) -> Vectors:
    """Vectors of all queries, each with its task's entry of `instructions`."""
    texts = np.array([query.text for query in data.queries], dtype=object)
    tasks = np.array([query.task for query in data.queries])
    found: Vectors | None = None
    for task, instruction in instructions.items():
        chosen = tasks == task
        if chosen.any():
            vectors = encoder.encode(texts[chosen].tolist(), Role.QUERY if instruction else Role.DOCUMENT, instruction)
            if found is None:
                found = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
            found[chosen] = vectors
    assert found is not None
    return found


def _measure(data: list[Data], encoder: Encoder, seed: int) -> SuiteResult:
    one = data[0]
    pool = encoder.encode([text.text for text in one.texts], Role.DOCUMENT)
    relevant = _relevant(one)
    ids = [query.id for query in one.queries]
    tasks = np.array([query.task for query in one.queries])
    found = Found("instruction", encoder.name, HEADLINE, seed)
    ways: dict[str, dict[str, str | None]] = {
        "": {task.task: task.instruction for task in one.tasks},
        "no instruction": {task.task: None for task in one.tasks},
        "wrong instruction": {task.task: task.wrong_instruction for task in one.tasks},
    }
    gained: dict[str, Floats] = {}
    for way, instructions in ways.items():
        ranked = ranked_by(_encode(one, encoder, instructions) @ pool.T, relevant)
        gained[way] = ndcg_at(ranked, 10)
        found.mean(HEADLINE, ids, gained[way], way)
        if not way:
            found.mean("precision@5", ids, precision_at(ranked, 5))
            for task in instructions:
                chosen = tasks == task
                if chosen.any():
                    part = [i for i, c in zip(ids, chosen, strict=True) if c]
                    found.mean(HEADLINE, part, gained[way][chosen], f"task {task}")
    for way, words in (("no instruction", "no instruction"), ("wrong instruction", "the wrong instruction")):
        found.mean("nDCG@10 gained", ids, gained[""] - gained[way], f"over {words}")
        found.notes.append(_verdict(found.figures[-1], words))
    found.plots.append(_same_text(one, encoder))
    found.notes.append(
        "Gains are paired: the same query with its instruction, less the query without or with the other task's. An interval that "
        "doesn't contain 0 is a gain that isn't chance. With none, a query is encoded like a document. A target that takes no "
        "instructions gains exactly 0 over the wrong one."
    )
    return found.result()


def _verdict(gain: Figure, words: str) -> str:
    if gain.low is None or gain.high is None:
        return f"Too few queries to say whether an instruction helps over {words}."
    found = f"{gain.value:+.3f} nDCG@10, from {gain.low:+.3f} to {gain.high:+.3f}"
    if gain.low <= 0 <= gain.high:
        return f"The right instruction over {words}: {found}; not significant."
    return f"The right instruction {'helps' if gain.value > 0 else 'harms'} over {words}: {found}."


def _same_text(data: Data, encoder: Encoder) -> Plot:
    """How far instructions move a text: cosines of the same texts under different ones, means over all queries' texts."""
    texts = list(dict.fromkeys(query.text for query in data.queries))
    vectors = {"none": encoder.encode(texts, Role.DOCUMENT)}
    for name, instruction in {"search": GENERAL, **{task.task: task.instruction for task in data.tasks}}.items():
        vectors[name] = encoder.encode(texts, Role.QUERY, instruction)
    cosines = [[float(np.einsum("nd,nd->n", a, b).mean()) for b in vectors.values()] for a in vectors.values()]
    return Plot(
        "heatmap",
        "The same text under different instructions",
        rows=list(vectors),
        columns=list(vectors),
        values=cosines,
    )


SUITE = Suite(
    "instruction",
    "what an instruction does: the same pool searched for two tasks",
    _read,
    _texts,
    _measure,
    ("instruction",),
)
