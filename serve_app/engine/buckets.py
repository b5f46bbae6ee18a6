"""The sizes that small batches are padded to, so that work prepared for a few sizes serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOKENS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
INPUTS = (1, 2, 8, 32)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A batch of exactly so many tokens in so many inputs."""

    tokens: int
    inputs: int

    def takes(self, tokens: int, inputs: int) -> bool:
        """Whether a batch can be padded to this. Tokens are only added in inputs of their own, of one token at least each."""
        more_tokens, more_inputs = self.tokens - tokens, self.inputs - inputs
        return more_tokens == more_inputs == 0 or 0 < more_inputs <= more_tokens

    def pad(self, token_ids: Sequence[npt.NDArray[np.integer]]) -> list[npt.NDArray[np.integer]]:
        """The inputs of a batch, and behind them those that pad it: of token 0, one each, all the rest in the last."""
        more = self.inputs - len(token_ids)
        left = self.tokens - sum(map(len, token_ids))
        sizes = [1] * (more - 1) + [left - more + 1] if more else []
        return [*token_ids, *(np.zeros(size, np.int64) for size in sizes)]


BUCKETS = tuple(Bucket(tokens, inputs) for tokens in TOKENS for inputs in INPUTS if inputs <= tokens)
"""All of them, the smaller first."""


def bucket_of(tokens: int, inputs: int, buckets: Sequence[Bucket] = BUCKETS) -> Bucket | None:
    """The first of the rising `buckets` that takes such a batch, None if it is too large."""
    return next((bucket for bucket in buckets if bucket.takes(tokens, inputs)), None)
