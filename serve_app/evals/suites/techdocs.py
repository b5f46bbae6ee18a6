"""A need in everyday words against the terse description of the command that serves it."""

from __future__ import annotations

from msgspec import Struct

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder
from serve_app.evals.result import SuiteResult
from serve_app.evals.suites.one_answer import measure_one_answer
from serve_app.evals.suites.retrieval import Retrieval, relevance
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Given a question about how to do something, retrieve the command or setting that does it"


class Document(Struct, frozen=True):
    id: str
    text: str


class Query(Struct, frozen=True):
    """`document` is the id of what it should find."""

    id: str
    text: str
    document: str


class Data(Struct, frozen=True):
    documents: list[Document]
    queries: list[Query]


def read(folder: Folder) -> Data:
    """`documents` and `queries`. Raises `DataError`."""
    data = Data(folder.read("documents", Document), folder.read("queries", Query))
    known = {document.id for document in data.documents}
    for query in data.queries:
        if folder.whole("documents") and query.document not in known:
            folder.wrong("queries", query.id, f"there is no document {query.document!r}")
    folder.finish()
    return data


def texts(data: Data) -> list[str]:
    """All of them."""
    return [*(document.text for document in data.documents), *(query.text for query in data.queries)]


def retrieval(data: Data) -> Retrieval:
    """All needs against all descriptions."""
    place = {document.id: number for number, document in enumerate(data.documents)}
    return Retrieval(
        "techdocs",
        INSTRUCTION,
        [query.id for query in data.queries],
        [query.text for query in data.queries],
        list(place),
        [document.text for document in data.documents],
        relevance(len(data.queries), len(place), [(n, place[q.document]) for n, q in enumerate(data.queries)]),
    )


def _measure(data: list[Data], encoder: Encoder, seed: int) -> SuiteResult:
    return measure_one_answer(retrieval(data[0]), [""] * len(data[0].queries), encoder, seed)


SUITE = Suite("techdocs", "needs in other words than the command's", read, texts, _measure, ("techdocs",))
