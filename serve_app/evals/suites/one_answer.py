"""Retrieval where each query has one right document: Top-1, Top-3, MRR."""

from __future__ import annotations

import numpy as np

from serve_app.evals.encoder import Encoder
from serve_app.evals.metrics import hit_at, reciprocal_rank
from serve_app.evals.result import SuiteResult
from serve_app.evals.suites.found import Found
from serve_app.evals.suites.retrieval import CURVE, Retrieval, curve

HEADLINE = "MRR"


def measure_one_answer(asked: Retrieval, groups: list[str], encoder: Encoder, seed: int) -> SuiteResult:
    """The whole, and each of the `groups`, which name one for every query; an empty name is none."""
    ranked = asked.ranked(encoder)
    found = Found(asked.name, encoder.name, HEADLINE, seed)
    depths = [k for k in CURVE if k <= len(asked.documents)]
    lines = {}
    for group in ["", *dict.fromkeys(name for name in groups if name)]:
        chosen = np.array([not group or name == group for name in groups])
        ids = [i for i, c in zip(asked.query_ids, chosen, strict=True) if c]
        found.mean("top-1", ids, hit_at(ranked[chosen], 1), group)
        found.mean("top-3", ids, hit_at(ranked[chosen], 3), group)
        found.mean(HEADLINE, ids, reciprocal_rank(ranked[chosen]), group)
        lines[group or "all"] = np.array([hit_at(ranked[chosen], k).mean() for k in depths])
    found.plots.append(curve("Queries whose document is among the best", "found", lines, depths))
    return found.result()
