"""A sentence-transformers model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from serve_app.evals.encoder import Role
from serve_app.evals.target import Target, TargetError
from serve_app.evals.target_backend import Answer, Known

PROMPTS = {Role.QUERY: "query", Role.DOCUMENT: "document", Role.CLUSTERING: "clustering"}
"""Names of the model's own prompts, by role; where it has none of that name the text goes alone."""


class LocalTarget:
    """One text list at a time; torch spreads the work over cores by itself. Instructions go before the text in the form that the
    model's own query prompt has, `Instruct: …\\nQuery:`, and texts without one go alone. A model whose prompt has another form gets
    its own prompts by role, and no instructions."""

    threads: int | None = 1
    kept = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._model: Any = None
        self._prompts: dict[str, str] = {}
        self.batch = target.batch or 32

    def open(self) -> Known:
        try:
            from sentence_transformers import SentenceTransformer, __version__
        except ImportError as error:
            raise TargetError(
                f"local models need sentence-transformers ({error}): pip install sentence-transformers", gone=True
            ) from None
        try:
            self._model = SentenceTransformer(self._target.model)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise TargetError(f"{self._target.model} can't be loaded: {reason}", gone=True) from error
        self._prompts = {name: text for name, text in self._model.prompts.items() if text}
        notes = [f"Texts of more than {self._model.max_seq_length} tokens are cut by sentence-transformers."]
        if not self._instructed:
            notes.append("Its own query prompt isn't of the form of an instruction: texts went without instructions.")
        told = {"sentence_transformers": __version__, "dtype": str(next(self._model.parameters()).dtype)}
        return Known(self._target.model, told, notes)

    def prepare(self, texts: Sequence[str]) -> None:
        pass

    def before(self, role: Role, instruction: str | None) -> str:
        if self._instructed:
            if not instruction:
                return ""
            head, _, _ = self._prompts["query"].partition("Instruct:")
            return f"{head}Instruct: {instruction}\nQuery:{self._tail}"
        return self._prompts.get(PROMPTS.get(role, ""), "")

    def embed(self, texts: Sequence[str], role: Role, instruction: str | None) -> Answer:
        vectors = self._model.encode(
            list(texts),
            prompt=self.before(role, instruction),
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return Answer(np.asarray(vectors, np.float32), None)

    def close(self) -> None:
        self._model = None

    @property
    def _instructed(self) -> bool:
        query = self._prompts.get("query", "")
        return "Instruct:" in query and "\nQuery:" in query

    @property
    def _tail(self) -> str:
        """What the model's own prompt has after `Query:`: nothing for Qwen3, a space for others."""
        return self._prompts["query"].rpartition("\nQuery:")[2]
