"""Users' own words against the questions of a FAQ: is the right entry first, or among the first three?

What is searched is the entries' questions; answers are read for nothing but to be kept with them.
"""

from __future__ import annotations

from msgspec import Struct

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder
from serve_app.evals.result import SuiteResult
from serve_app.evals.suites.one_answer import measure_one_answer
from serve_app.evals.suites.retrieval import Retrieval, relevance
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Given a customer's question, retrieve questions of the FAQ that have the same answer"


class Entry(Struct, frozen=True):
    id: str
    question: str
    category: str = ""
    answer: str = ""


class Query(Struct, frozen=True):
    """`entry` is the id of the entry it asks for."""

    id: str
    text: str
    entry: str


class Data(Struct, frozen=True):
    entries: list[Entry]
    queries: list[Query]


def _read(folder: Folder) -> Data:
    data = Data(folder.read("entries", Entry), folder.read("queries", Query))
    known = {entry.id for entry in data.entries}
    for query in data.queries:
        if folder.whole("entries") and query.entry not in known:
            folder.wrong("queries", query.id, f"there is no entry {query.entry!r}")
    folder.finish()
    return data


def _texts(data: Data) -> list[str]:
    return [*(entry.question for entry in data.entries), *(query.text for query in data.queries)]


def retrieval(data: Data) -> Retrieval:
    """All phrasings against all questions."""
    place = {entry.id: number for number, entry in enumerate(data.entries)}
    return Retrieval(
        "faq",
        INSTRUCTION,
        [query.id for query in data.queries],
        [query.text for query in data.queries],
        list(place),
        [entry.question for entry in data.entries],
        relevance(len(data.queries), len(place), [(n, place[q.entry]) for n, q in enumerate(data.queries)]),
    )


def _measure(data: list[Data], encoder: Encoder, seed: int) -> SuiteResult:
    categories = {entry.id: entry.category for entry in data[0].entries}
    groups = [categories[query.entry] for query in data[0].queries]
    return measure_one_answer(retrieval(data[0]), groups, encoder, seed)


SUITE = Suite("faq", "users' phrasings against the questions of a FAQ", _read, _texts, _measure, ("faq",))
