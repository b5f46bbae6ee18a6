"""A batch that the device's memory doesn't hold, in parts that it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import repeat

import numpy as np
import torch

from serve_app.engine.batch import EncodedBatch, Pending
from serve_app.engine.run import Cost, Run, all_tokens
from serve_app.errors import InputOverMemoryError
from serve_app.types import TokenIds

logger = logging.getLogger(__name__)


_FEWEST_TOKENS = 256


def largest_that_fits(run: Callable[[int], object], tokens: int) -> int:
    """`tokens`, or half of it, or half of that: the first number that `run` can be called with. Raises as `run` does if few are
    too many still."""
    while True:
        try:
            run(tokens)
        except torch.OutOfMemoryError:
            if tokens <= _FEWEST_TOKENS:
                raise
        else:
            return tokens
        torch.cuda.empty_cache()
        tokens //= 2
        logger.warning("The device's memory holds batches of %d tokens only", tokens)


class HalvingEncoder:
    """Calls `encode` with a batch, and with halves of it, and halves of those, where that raises `torch.OutOfMemoryError`.

    `encode` takes a list of int32 token arrays; it returns their batch, or what waits for it if it only launched it. An input that
    doesn't even fit alone fails with `InputOverMemoryError`; the others have their vectors. `lower` is then told the number of tokens
    that batches should keep to from now on: half of what didn't fit, but no less than the longest input that was seen to fit. `cost`
    counts an input's tokens as the budget of batches does. Tenants are handed on. For one thread, and one that waits.
    """

    def __init__(
        self,
        encode: Run,
        *,
        hidden_size: int,
        lower: Callable[[int], None],
        cost: Cost = all_tokens,
    ) -> None:
        self._encode = encode
        self._hidden_size = hidden_size
        self._lower = lower
        self._cost = cost
        self._longest = 0
        self._told = False

    def __call__(self, token_ids: list[TokenIds], tenants: Sequence[int] = (), /) -> EncodedBatch | Pending:
        """The vectors of all inputs, in their order, and the errors of those that have none; as `encode`, now or later."""
        try:
            batch = self._encode(token_ids, tenants) if tenants else self._encode(token_ids)
        except torch.OutOfMemoryError:
            pass  # handled below, once the traceback has let go of the failed pass's tensors
        else:
            # Memory is taken at the launch: an input that was launched fits.
            failed = () if callable(batch) else batch.failed
            costs = [each for i, each in enumerate(self._costs(token_ids, tenants)) if i not in failed]
            self._longest = max(self._longest, *costs, 0)
            return batch
        torch.cuda.empty_cache()
        tokens = sum(map(len, token_ids))
        self._tell(len(token_ids), tokens)
        if len(token_ids) == 1:
            return EncodedBatch(np.zeros((1, self._hidden_size), np.float32), {0: InputOverMemoryError(tokens)})
        self._lower(max(sum(self._costs(token_ids, tenants)) // 2, self._longest))
        middle = len(token_ids) // 2
        first = self(token_ids[:middle], tenants[:middle])
        second = self(token_ids[middle:], tenants[middle:])
        if callable(first) or callable(second):
            return lambda: _joined(_arrived(first), _arrived(second))
        return _joined(first, second)

    def _costs(self, token_ids: list[TokenIds], tenants: Sequence[int]) -> list[int]:
        return [self._cost(ids, tenant) for ids, tenant in zip(token_ids, tenants or repeat(0))]  # noqa: B905

    def _tell(self, inputs: int, tokens: int) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "The device's memory doesn't hold a batch of %d inputs with %d tokens: it is computed in parts, and batches are "
                "smaller from now on. Lower batch.max_tokens to start with that.",
                *(inputs, tokens),
            )


def _arrived(batch: EncodedBatch | Pending) -> EncodedBatch:
    return batch() if callable(batch) else batch


def _joined(first: EncodedBatch, second: EncodedBatch) -> EncodedBatch:
    """The rows of both."""
    middle = len(first.vectors)
    failed = first.failed | {row + middle: error for row, error in second.failed.items()}
    reused = (first.reused or [0] * middle) + (second.reused or [0] * len(second.vectors))
    return EncodedBatch(np.concatenate([first.vectors, second.vectors]), failed, reused)
