"""Scores that a checkpoint is known to give: whoever computes others, computes wrongly, or another model.

A golden file is JSON. `embedserve verify MODEL --record FILE` makes one of a model that is right, for other machines to be held
against; those of the published checkpoints are in `known/`, and say where each of their numbers is from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.engine.finding import Finding
from serve_app.errors import CheckpointError
from serve_app.types import Vectors

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
"""The published models' own `query` prompt; documents have none."""

QUERIES = (f"{PROMPT}What is the capital of China?", f"{PROMPT}Explain gravity")
DOCUMENTS = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and "
    "is responsible for the movement of planets around the sun.",
)
"""The texts that the model cards give scores for."""

MORE_DOCUMENTS = (
    "中国的首都是北京。",
    "重力は、物体が互いに引き合う力である。",
    "La gravedad mantiene a los planetas en órbita alrededor del sol.",
)
"""And others in a recorded file, for tokenizing differs more between scripts than between sentences."""

TOLERANCE = {"float32": 3e-3, "bfloat16": 1e-2}
"""How far scores may be off. bfloat16's is four times what vLLM's bfloat16 scores of the 0.6B are off by (2.6e-3)."""
QUANTISED_TOLERANCE = 5e-2


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A safetensors file: its size, and the SHA-256 of its bytes in hexadecimal digits."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Golden:
    """What a checkpoint gives, and what it is known by.

    `scores` is float32 `[queries, documents]`, cosines; `queries` have their prompt before them. `weights` are all safetensors files
    by name, and `revisions` commits on the Hugging Face hub: what is true of either is this checkpoint. `dtype` is what the scores
    were computed in. `source` says where all that is from.
    """

    model: str
    scores: npt.NDArray[np.float32]
    queries: Sequence[str] = QUERIES
    documents: Sequence[str] = DOCUMENTS
    dtype: str = "float32"
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    revisions: Sequence[str] = ()
    source: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Golden:
        """Read a golden file. Raises `CheckpointError` for one that isn't there or isn't one."""
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(fields, dict):
                raise TypeError(f"it has a {type(fields).__name__} and no JSON object")
            weights = {name: WeightFile(**found) for name, found in fields.pop("weights", {}).items()}
            golden = cls(**{**fields, "scores": np.array(fields["scores"], np.float32), "weights": weights})
            shape = (len(golden.queries), len(golden.documents))
            if golden.scores.shape != shape or not np.isfinite(golden.scores).all():
                raise ValueError(f"its scores aren't {shape[0]} rows of {shape[1]} numbers")
            return golden
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{file} isn't a file that `embedserve verify MODEL --record FILE` has written: {error}"
            ) from error

    def write(self, file: Path) -> None:
        """Write it as a golden file."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        fields["scores"] = [[round(float(score), 7) for score in row] for row in self.scores]
        fields["weights"] = {name: asdict(found) for name, found in self.weights.items()}
        file.write_text(json.dumps(fields, indent=2, ensure_ascii=False, default=list) + "\n", encoding="utf-8")

    def check(self, encode: Callable[[list[str]], Vectors], dtype: str | None) -> Finding:
        """Compare with what `encode` makes of texts, float32 `[n, hidden]`, of unit length, in `dtype` (None: not known)."""
        found = score(encode, self.queries, self.documents)
        tolerance = max(tolerance_of(self.dtype), tolerance_of(dtype or "bfloat16"))
        off = float(np.abs(found - self.scores).max())
        if off <= tolerance:
            return Finding("golden scores", True, f"off by {off:.1e} from those of {self.model}, {tolerance:g} may be")
        rows = [[[round(float(each), 4) for each in row] for row in scores] for scores in (found, self.scores)]
        return Finding(
            "golden scores",
            False,
            f"wrong by {off if math.isfinite(off) else math.nan:.4f}: {rows[0]} where {self.model} has {rows[1]}, and {tolerance:g} "
            "is allowed. A file of the model is damaged or from another upload, or this machine computes wrongly: fetch the model "
            "again, and if that doesn't help, try another device or dtype. If it was changed on purpose, record its scores anew.",
        )


def score(encode: Callable[[list[str]], Vectors], queries: Sequence[str], documents: Sequence[str]) -> Vectors:
    """Cosines of queries and documents, float32 `[queries, documents]`."""
    vectors = encode([*queries, *documents])
    return np.asarray(vectors[: len(queries)] @ vectors[len(queries) :].T, np.float32)


def tolerance_of(dtype: str) -> float:
    """How far scores computed in `dtype` may be off."""
    return TOLERANCE.get(dtype, QUANTISED_TOLERANCE)
