"""Titles in several languages in one pool, and queries in each language: what is found across languages, and which are preferred?

A title is relevant if it has the query's topic. Documents are bare, queries carry the instruction.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from serve_app.evals.dataset import Folder
from serve_app.evals.encoder import Encoder
from serve_app.evals.metrics import Bools, ndcg_at, order_by, precision_at, ranked_by, recall_at, reciprocal_rank
from serve_app.evals.result import Figure, Plot, SuiteResult
from serve_app.evals.statistics import interval_of
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.retrieval import CURVE, Retrieval, curve
from serve_app.evals.suites.suite import Suite

INSTRUCTION = "Given a news search query, retrieve news titles on that topic"
HEADLINE = "nDCG@10"
POOL_DEPTH = 10


class Title(Struct, frozen=True):
    """Also a query: texts with a language and a topic."""

    id: str
    lang: str
    topic: str
    text: str


class Data(Struct, frozen=True):
    titles: list[Title]
    queries: list[Title]


def _read(folder: Folder) -> Data:
    data = Data(folder.read("titles", Title), folder.read("queries", Title))
    topics = {title.topic for title in data.titles}
    for query in data.queries:
        if folder.whole("titles") and query.topic not in topics:
            folder.wrong("queries", query.id, f"no title has the topic {query.topic!r}")
    folder.finish()
    return data


def _texts(data: Data) -> list[str]:
    return [row.text for row in (*data.titles, *data.queries)]


def retrieval(data: Data) -> Retrieval:
    """All queries against all titles."""
    topics = np.array([title.topic for title in data.titles])
    return Retrieval(
        "crosslingual",
        INSTRUCTION,
        [query.id for query in data.queries],
        [query.text for query in data.queries],
        [title.id for title in data.titles],
        [title.text for title in data.titles],
        np.array([topics == query.topic for query in data.queries]),
    )


def _measure(data: list[Data], encoder: Encoder, seed: int) -> SuiteResult:
    titles, queries = data[0].titles, data[0].queries
    asked = retrieval(data[0])
    query_vectors, title_vectors = asked.vectors(encoder)
    scores = query_vectors @ title_vectors.T
    from_langs = np.array([query.lang for query in queries])
    to_langs = np.array([title.lang for title in titles])
    langs = list(dict.fromkeys([*from_langs.tolist(), *to_langs.tolist()]))
    found = Found("crosslingual", encoder.name, HEADLINE, seed)

    ranked = ranked_by(scores, asked.relevant)
    ids = asked.query_ids
    found.mean(HEADLINE, ids, ndcg_at(ranked, 10))
    found.mean("precision@5", ids, precision_at(ranked, 5))
    found.mean("recall@50", ids, recall_at(ranked, 50))
    found.mean("MRR", ids, reciprocal_rank(ranked))
    depths = [k for k in CURVE if k <= len(titles)]
    lines = {"all": np.array([recall_at(ranked, k).mean() for k in depths])}
    for lang in langs:
        chosen = from_langs == lang
        if chosen.any():
            part = [i for i, c in zip(ids, chosen, strict=True) if c]
            found.mean(HEADLINE, part, ndcg_at(ranked[chosen], 10), f"{lang}→all")
            lines[f"{lang}→all"] = np.array([recall_at(ranked[chosen], k).mean() for k in depths])
    _pairs(found, asked, scores, from_langs, to_langs, langs)
    _bias(found, asked, scores, from_langs, to_langs, langs)
    found.plots.append(curve("Recall in the pool of all languages", "recall", lines, depths))
    found.notes.append(
        "zh→all: Chinese queries in the pool of all languages; zh→ja: the same among the Japanese titles alone; zh→ja in the pool: "
        "among all titles, where only the Japanese ones count. Language bias is 0 where the ten best mix languages on average as the "
        "relevant titles do, and 1 where they have no language in common."
    )
    return found.result()


def _pairs(
    found: Found,
    asked: Retrieval,
    scores: npt.NDArray[np.float32],
    from_langs: npt.NDArray[np.str_],
    to_langs: npt.NDArray[np.str_],
    langs: list[str],
) -> None:
    """Each language of queries among the titles of each language."""
    matrix, pooled = np.full((2, len(langs), len(langs)), np.nan)
    for row, source in enumerate(langs):
        for column, target in enumerate(langs):
            part = (from_langs == source)[:, None] & (to_langs == target)
            if not part.any():
                continue
            relevant = asked.relevant[from_langs == source][:, to_langs == target]
            answerable = relevant.any(axis=1)
            if not answerable.any():
                continue
            chosen = np.flatnonzero(from_langs == source)[answerable]
            ranked = ranked_by(scores[chosen][:, to_langs == target], relevant[answerable])
            ids = [asked.query_ids[number] for number in chosen]
            matrix[row, column] = found.mean(HEADLINE, ids, ndcg_at(ranked, 10), f"{source}→{target}")
            found.mean("precision@5", ids, precision_at(ranked, 5), f"{source}→{target}")
            found.mean("recall@10", ids, recall_at(ranked, 10), f"{source}→{target}")
            wanted = asked.relevant[chosen] & (to_langs == target)
            pooled[row, column] = _in_the_pool(found, ids, ranked_by(scores[chosen], wanted), f"{source}→{target}")
    found.plots[:0] = [
        _heatmap("nDCG@10: query language → title language, each by itself", langs, matrix),
        _heatmap("nDCG@10: query language → title language, in the pool of all", langs, pooled),
    ]


def _in_the_pool(found: Found, ids: list[str], ranked: Bools, pair: str) -> float:
    """The same in the pool of all titles: what a reader of that language only finds there. Not tested, as the pair itself is."""
    group = f"{pair} in the pool"
    found.mean("precision@5", ids, precision_at(ranked, 5), group, kept=False)
    found.mean("recall@50", ids, recall_at(ranked, 50), group, kept=False)
    return found.mean(HEADLINE, ids, ndcg_at(ranked, 10), group, kept=False)


def _bias(
    found: Found,
    asked: Retrieval,
    scores: npt.NDArray[np.float32],
    from_langs: npt.NDArray[np.str_],
    to_langs: npt.NDArray[np.str_],
    langs: list[str],
) -> None:
    """What languages the best of the pool are in, against what languages the relevant titles are in."""
    best = order_by(scores)[:, :POOL_DEPTH]
    has = np.array([to_langs == lang for lang in langs])  # [languages, titles]
    got = np.array([[has[row][line].mean() for row in range(len(langs))] for line in best])
    due = (asked.relevant.astype(np.float64) @ has.T) / asked.relevant.sum(axis=1, keepdims=True)
    asked_in = [lang for lang in langs if (from_langs == lang).any()]

    def distance(draw: npt.NDArray[np.int64]) -> float:
        """Total variation distance of the two mean distributions, averaged over the languages of queries."""
        parts = [(got - due)[draw[from_langs[draw] == lang]] for lang in asked_in]
        return float(np.mean([0.5 * np.abs(part.mean(axis=0)).sum() for part in parts if len(part)]))

    low, high = interval_of(distance, len(got), found.seed)
    found.figures.append(Figure("language bias", distance(np.arange(len(got))), low, high, n=len(got)))
    ratio = np.full((len(langs), len(langs)), np.nan)
    for row, source in enumerate(langs):
        chosen = from_langs == source
        for column, target in enumerate(langs):
            if chosen.any() and due[chosen, column].mean() > 0:
                share, fair = float(got[chosen, column].mean()), float(due[chosen, column].mean())
                ratio[row, column] = share / fair
                group, n = f"{source}→{target} in the pool", int(chosen.sum())
                found.figures.append(Figure("share of the best 10", share, group=group, n=n))
                found.figures.append(Figure("share of the relevant", fair, group=group, n=n))
    found.plots.append(_heatmap("Share of the best 10 over what is due (1: no bias)", langs, ratio))


def _heatmap(title: str, langs: list[str], values: npt.NDArray[np.float64]) -> Plot:
    rows = [number for number in range(len(langs)) if not np.isnan(values[number]).all()]
    columns = [number for number in range(len(langs)) if not np.isnan(values[:, number]).all()]
    return Plot(
        "heatmap",
        title,
        rows=[langs[number] for number in rows],
        columns=[langs[number] for number in columns],
        values=np.nan_to_num(values[np.ix_(rows, columns)]).tolist(),
    )


SUITE = Suite(
    "crosslingual", "news titles in several languages in one pool", _read, _texts, _measure, ("crosslingual",)
)
