"""Batches in which some inputs want the vectors of all their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from serve_app.engine.batch import EncodedBatch, Pending
from serve_app.engine.run import Run, RunTokens
from serve_app.errors import EngineError, InputOverMemoryError, NonFiniteError
from serve_app.types import TokenIds, Vectors


def no_token_vectors(token_ids: list[TokenIds]) -> EncodedBatch:
    """For engines that have none: raises `EngineError`."""
    raise EngineError("this engine gives no vectors of tokens")


class TokenVectorEncoder:
    """Encodes inputs to the vectors of all their tokens, by `launch`: `Engine.launch_tokens`.

    An input that it refuses, that the memory of the device doesn't hold or whose vectors aren't finite fails alone. `memory` are the
    exceptions by which `launch` says that memory is short: `free` is called then, and inputs are tried one by one.
    """

    def __init__(
        self,
        launch: Callable[[Sequence[TokenIds]], Callable[[], list[Vectors]]],
        hidden_size: int,
        memory: type[Exception],
        free: Callable[[], None],
    ) -> None:
        self._launch = launch
        self._hidden_size = hidden_size
        self._memory = memory
        self._free = free

    def __call__(self, token_ids: list[TokenIds]) -> Pending:
        """What waits for the batch."""
        waiting: list[tuple[list[int], Callable[[], list[Vectors]]]] = []
        failed: dict[int, Exception] = {}
        launched = self._attempted(token_ids)
        if callable(launched):
            waiting.append(([*range(len(token_ids))], launched))
        else:
            for row, ids in enumerate(token_ids):
                alone = self._attempted([ids])
                if callable(alone):
                    waiting.append(([row], alone))
                else:
                    failed[row] = alone

        def arrived() -> EncodedBatch:
            found: dict[int, Vectors] = {}
            for rows, wait in waiting:
                found.update(zip(rows, wait(), strict=True))
            for row in [row for row, vectors in found.items() if not np.isfinite(vectors).all()]:
                del found[row]
                failed[row] = NonFiniteError("the model gave NaN or infinity for this input")
            return EncodedBatch(np.zeros((len(token_ids), self._hidden_size), np.float32), failed, token_vectors=found)

        return arrived

    def _attempted(self, token_ids: list[TokenIds]) -> Callable[[], list[Vectors]] | EngineError | InputOverMemoryError:
        try:
            return self._launch(token_ids)
        except EngineError as error:
            return error
        except self._memory:
            pass  # its traceback holds the failed pass's tensors
        self._free()
        return InputOverMemoryError(sum(map(len, token_ids)))


def run_both(
    run: Run, run_tokens: RunTokens, inputs: list[TokenIds], tenants: Sequence[int], wanting: Sequence[int]
) -> EncodedBatch | Pending:
    """`inputs` by `run`, but for the rows `wanting` (ascending), which go by `run_tokens`; one batch, in the order of `inputs`."""
    chosen = set(wanting)
    pooled = [row for row in range(len(inputs)) if row not in chosen]
    parts: list[tuple[list[int], EncodedBatch | Pending]] = []
    if pooled:
        own = [tenants[row] for row in pooled]
        part = [inputs[row] for row in pooled]
        parts.append((pooled, run(part, own) if any(own) else run(part)))
    parts.append((list(wanting), run_tokens([inputs[row] for row in wanting])))

    def arrived() -> EncodedBatch:
        return _merged(len(inputs), [(rows, part() if callable(part) else part) for rows, part in parts])

    return arrived if any(callable(part) for _, part in parts) else arrived()


def _merged(n: int, parts: Sequence[tuple[list[int], EncodedBatch]]) -> EncodedBatch:
    for rows, part in parts:
        if len(part.vectors) != len(rows):
            raise EngineError(f"the engine returned {len(part.vectors)} rows for {len(rows)} inputs")
    whole = EncodedBatch(np.zeros((n, parts[0][1].vectors.shape[1]), np.float32), reused=[0] * n)
    for rows, part in parts:
        whole.vectors[rows] = part.vectors
        whole.failed |= {rows[row]: error for row, error in part.failed.items()}
        whole.token_vectors |= {rows[row]: vectors for row, vectors in part.token_vectors.items()}
        for row, tokens in zip(rows, part.reused, strict=False):  # empty for none
            whole.reused[row] = tokens
    return whole
