"""What stands behind a target: one client, one local model, one baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from serve_app.evals.encoder import Role, Vectors

RETRIES = 6
"""Of a request that got 408, 409, 429 or 5xx or no reply, by the vendor's client, which waits longer each time."""

TIMEOUT_SECONDS = 60.0


class Answer(NamedTuple):
    """Vectors [n, d] as the target gave them, and the tokens that it says the request was; None where it says nothing."""

    vectors: Vectors
    tokens: int | None


@dataclass(frozen=True)
class Known:
    """What a target told about its model before the first text."""

    model: str
    told: dict[str, Any] = field(default_factory=dict)
    """The model's revision and the like: whatever of it changes, kept vectors aren't used any more."""
    notes: list[str] = field(default_factory=list)


class Backend(Protocol):
    """Gives vectors. Used from as many threads as `concurrency` says, but `open` and `close`."""

    @property
    def batch(self) -> int:
        """Texts a request."""
        ...

    @property
    def threads(self) -> int | None:
        """At most so many requests at once; None: as many as the user says."""
        ...

    @property
    def kept(self) -> bool:
        """Whether a text's vector depends on nothing but the model, the text and what precedes it."""
        ...

    def open(self) -> Known:
        """Raises `TargetError`."""
        ...

    def prepare(self, texts: Sequence[str]) -> None:
        """Told all texts of a suite before the first is asked for."""
        ...

    def before(self, role: Role, instruction: str | None) -> str:
        """What the model sees before a text, or the name of it: the same text after the same has the same vector."""
        ...

    def embed(self, texts: Sequence[str], role: Role, instruction: str | None) -> Answer:
        """Raises `TargetError`."""
        ...

    def close(self) -> None: ...
