"""What a suite asks of whatever is being measured."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Role(StrEnum):
    """What a text is to its task. A target turns it into its own model's prompt or `input_type`."""

    QUERY = "query"
    DOCUMENT = "document"
    SIMILARITY = "similarity"
    """Both sides of a comparison are alike: pairs, parallel sentences."""
    CLUSTERING = "clustering"


class Encoder(Protocol):
    """A model behind an endpoint, a local one, or a baseline."""

    name: str

    def prepare(self, texts: Sequence[str]) -> None:
        """Told all texts of a suite before its first `encode`; only baselines that count words make use of it."""

    def encode(self, texts: Sequence[str], role: Role, instruction: str | None = None) -> Vectors:
        """Vectors of `texts`, shape [len(texts), d], float32, each of length 1.

        `instruction` is the task in words; targets that know no instructions ignore it and say so in their notes.
        Raises `TargetError` when the target refuses or can't be reached.
        """
        ...
