"""The vectors of all tokens of a request, at the gateway: how many there may be, and the result that they make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from serve_app.errors import TooManyTokensError
from serve_app.types import Limits, ServedModel, Stage, TokenIds, TokenVectors, Vectors


def check_token_vectors(inputs: Sequence[TokenIds], limits: Limits, model: ServedModel) -> None:
    """Raise `TooManyTokensError` if a request asks for the vectors of too many tokens."""
    tokens = sum(map(len, inputs))
    if tokens > (most := limits.token_vectors(model.dimensions)):
        raise TooManyTokensError(
            f"Requested the vectors of {tokens} tokens, max {most} per request, each {model.dimensions} numbers. Send fewer or "
            "shorter inputs at a time, or ask for one vector per input.",
            param="input",
        )


async def token_vectors(found: list[Vectors], stages: dict[Stage, float]) -> TokenVectors:
    """The result of the inputs' vectors, float32 `[tokens, hidden]` each."""
    lengths = np.array([len(vectors) for vectors in found], np.int32)
    # Up to hundreds of megabytes.
    vectors = found[0] if len(found) == 1 else await asyncio.to_thread(np.concatenate, found)
    return TokenVectors(vectors, int(lengths.sum()), stages, lengths=lengths)
