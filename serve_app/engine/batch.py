"""A batch: the inputs that the engine takes at once, and the way of what it makes of them back to those who asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.engine.submission import Input
from serve_app.errors import EngineError
from serve_app.types import Vectors


@dataclass(slots=True)
class EncodedBatch:
    """What the engine makes of a batch: float32 `[n, hidden]`, an exception for each row that is no vector,
    how many tokens of each input it needn't compute (empty for none), and instead of a row the vectors of all tokens, float32
    `[tokens, hidden]`, where those were asked for."""

    vectors: Vectors
    failed: dict[int, Exception] = field(default_factory=dict)
    reused: list[int] = field(default_factory=list)
    token_vectors: dict[int, Vectors] = field(default_factory=dict)


Pending = Callable[[], EncodedBatch]
"""A batch that was launched: waits for it. Raises as the engine does."""


@dataclass(slots=True, eq=False)
class Batch:
    """Inputs of any submissions that the engine takes at once, and when it did, in the batcher's seconds; and then how many tokens
    of each it needn't compute.

    `followers` are the inputs that get the same answer as the one in that row of `inputs`; some may have joined while it ran.
    `tokens` includes theirs.
    """

    inputs: list[Input]
    tokens: int
    started: float = 0.0
    ended: float = 0.0
    reused: list[int] = field(default_factory=list)
    followers: dict[int, list[Input]] = field(default_factory=dict)

    def askers(self, row: int) -> list[Input]:
        """All inputs that get the answer of this row."""
        return [self.inputs[row], *self.followers.get(row, ())]

    def checked(self, outcome: EncodedBatch | Exception, hidden_size: int) -> EncodedBatch | EngineError:
        """`outcome`, or the error that all askers get instead: where it is one, or has not a vector for every input."""
        if isinstance(outcome, EngineError):
            return outcome
        if isinstance(outcome, Exception):
            return EngineError(f"the engine failed on this batch: {type(outcome).__name__}")
        expected = (len(self.inputs), hidden_size)
        if outcome.vectors.shape != expected:
            return EngineError(f"the engine returned {outcome.vectors.shape} for a batch of {expected}")
        return outcome

    def answer(self, encoded: EncodedBatch) -> None:
        """Give every asker its vector or its error; those that were answered meanwhile have theirs."""
        for row, vector in enumerate(encoded.vectors):
            error = encoded.failed.get(row)
            for item in self.askers(row):
                if item.answered:
                    continue
                if error is not None:
                    item.submission.fail(item, error)
                    continue
                if encoded.token_vectors and row in encoded.token_vectors:
                    item.submission.encoded.token_vectors[item.row] = encoded.token_vectors[row]
                begun = max(self.started, item.arrival)  # one that joined has only waited for the rest of the run
                item.submission.answer(item, vector, begun - item.arrival, max(0.0, self.ended - begun))

    def fail(self, error: EngineError) -> None:
        """Give every asker this error."""
        for row in range(len(self.inputs)):
            for item in self.askers(row):
                if not item.answered:
                    item.submission.fail(item, error)
