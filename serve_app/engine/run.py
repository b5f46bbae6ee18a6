"""What the batcher calls: an engine, over one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from serve_app.engine.batch import EncodedBatch, Pending
from serve_app.types import TokenIds


class Run(Protocol):
    """Takes int32 token arrays, and for each its tenant, as in the envelope; none at all where they have none."""

    def __call__(self, token_ids: list[TokenIds], tenants: Sequence[int] = (), /) -> EncodedBatch | Pending:
        """Their batch, or what waits for it."""


RunTokens: TypeAlias = Callable[[list[TokenIds]], EncodedBatch | Pending]
"""The same for the vectors of all tokens, which nobody shares."""

Cost: TypeAlias = Callable[[TokenIds, int], int]
"""What an input, of a tenant, takes of a batch's token budget."""


def all_tokens(token_ids: TokenIds, tenant: int) -> int:
    """The cost where nothing is reused."""
    return len(token_ids)
