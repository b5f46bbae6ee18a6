"""Which inputs are computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve_app.engine.prefix_cache import cost
from serve_app.engine.shared_prefix import SharedPrefix


def passes(lengths: Sequence[int], prefixes: Sequence[SharedPrefix | None], most: int) -> Iterator[list[int]]:
    """How inputs of these lengths are put into forward passes of at most `most` tokens: their indices, least to compute first.

    Some go on from `prefixes`; if it's empty none do. An input longer than `most` is alone in its pass.

    Sorting makes equal lengths behind equal prefixes neighbours, which attention on CPU wants.
    """
    prefixes = prefixes or [None] * len(lengths)
    before = [prefix.tokens if prefix else 0 for prefix in prefixes]
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i] - before[i], id(prefixes[i]))):
        taken = cost(lengths[index], before[index])
        if batch and tokens + taken > most:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += taken
    if batch:
        yield batch
