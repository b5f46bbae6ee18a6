"""What the batcher keeps of a call: its inputs, and the answer that they fill in row by row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from serve_app.engine.lane import QueuedInput
from serve_app.errors import EmbedserveError
from serve_app.types import TokenIds, Vectors

ShareKey: TypeAlias = tuple[int, bytes]
"""A tenant and token ids."""


class InputCancelledError(EmbedserveError):
    """The input was cancelled; whoever did so no longer reads its answer."""


@dataclass(slots=True)
class Encoded:
    """What `Batcher.submit` resolves to, one entry per input in the order submitted.

    `vectors` is float32 `[n, hidden]`, zero in the rows whose index is in `errors`. `queue_seconds` (from
    submission to the start of its batch) and `inference_seconds` (its batch's run, or the rest of it for an input that joined it)
    are float32 `[n]`. `token_vectors` has float32 `[tokens, hidden]` of inputs that asked for `Output.TOKENS`; their rows are zero.
    """

    vectors: Vectors
    errors: dict[int, Exception]
    queue_seconds: npt.NDArray[np.float32]
    inference_seconds: npt.NDArray[np.float32]
    token_vectors: dict[int, Vectors] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Input(QueuedInput):
    """One input of a submission; `answered` once its row holds a vector or an error. Inputs with the same `key` share their answer;
    one without shares with nobody. `output` is an `Output`; `tenant` as in the envelope."""

    token_ids: TokenIds
    id: int
    row: int
    submission: Submission
    output: int = 0
    tenant: int = 0
    answered: bool = field(default=False, init=False)
    key: ShareKey | None = field(default=None, init=False)

    def share(self) -> None:
        """From now on it shares its answer with inputs of its tenant that have the same token ids."""
        self.key = self.tenant, self.token_ids.tobytes()


class Submission:
    """The inputs of one call, how many of them are still unanswered, and the future that waits for them."""

    __slots__ = ("_resolved", "encoded", "future", "gateway", "inputs", "left")

    def __init__(
        self,
        n: int,
        hidden_size: int,
        gateway: str,
        future: asyncio.Future[Encoded],
        resolved: Callable[[Submission], None],
    ) -> None:
        self.encoded = Encoded(
            np.zeros((n, hidden_size), np.float32), {}, np.zeros(n, np.float32), np.zeros(n, np.float32)
        )
        self.future = future
        self.gateway = gateway
        self.inputs: list[Input] = []
        self.left = n
        self._resolved = resolved

    def answer(self, item: Input, vector: Vectors, queued: float, inference: float) -> None:
        """Fill in the row of an unanswered input."""
        row = item.row
        self.encoded.vectors[row] = vector
        self.encoded.queue_seconds[row] = queued
        self.encoded.inference_seconds[row] = inference
        self._settle(item)

    def fail(self, item: Input, error: Exception) -> None:
        """Give an unanswered input its error."""
        self.encoded.errors[item.row] = error
        self._settle(item)

    def _settle(self, item: Input) -> None:
        item.answered = True
        self.left -= 1
        if not self.left:
            self.resolve()

    def resolve(self) -> None:
        """Hand over the answer."""
        self.inputs = []
        self._resolved(self)
        if not self.future.done():
            self.future.set_result(self.encoded)


class OpenSubmissions:
    """The calls that are not answered yet, by the gateway they came from."""

    def __init__(self) -> None:
        self._of: dict[str, set[Submission]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def add(self, submission: Submission) -> None:
        """It waits for its answer from now on."""
        self._of.setdefault(submission.gateway, set()).add(submission)

    def remove(self, submission: Submission) -> None:
        """It has its answer."""
        live = self._of[submission.gateway]
        live.remove(submission)
        if not live:
            del self._of[submission.gateway]

    def inputs(self, gateway: str | None = None) -> list[Input]:
        """The inputs of a gateway's calls, of all gateways for None; some may have been answered."""
        of = self._of.values() if gateway is None else [self._of.get(gateway, set())]
        return [item for live in of for submission in live for item in submission.inputs]
