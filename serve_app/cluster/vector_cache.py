"""Vectors by key, those used last, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from serve_app.types import Vectors

# Beside its vector: a key of 16 bytes as an object, its place in the order, and a number (tracemalloc says 155 to 196 bytes).
ENTRY_BYTES = 200


class VectorCache:
    """float32 vectors of `width` numbers, in `capacity` bytes at most, all told; 0 keeps none. Not thread-safe.

    They are rows of one matrix, so that nothing is allocated or freed for one of them. Memory is taken as rows are first written.
    """

    def __init__(self, width: int, capacity: int = 0) -> None:
        self._width = width
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._matrix = np.empty((0, width), np.float32)
        self.resize(capacity)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """What the vectors take that are kept now."""
        return len(self._rows) * self._vector_bytes

    def resize(self, capacity: int) -> None:
        """Keep no more than this many bytes from now on."""
        size = capacity // self._vector_bytes
        if size == len(self._matrix):
            return
        while len(self._rows) > size:
            self._rows.popitem(last=False)
        matrix = np.empty((size, self._width), np.float32)
        np.take(self._matrix, list(self._rows.values()), axis=0, out=matrix[: len(self._rows)], mode="clip")
        self._rows = OrderedDict((key, row) for row, key in enumerate(self._rows))
        self._matrix = matrix

    def find(self, keys: Sequence[bytes]) -> tuple[list[int], Vectors]:
        """The places in `keys` of those that are there, ascending, and a copy of their vectors, `[found, width]`; they have been used
        now."""
        places = []
        rows = []
        for place, key in enumerate(keys):
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
                places.append(place)
                rows.append(row)
        return places, self._matrix[rows] if rows else self._matrix[:0]

    def keep(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Keep `vectors[i]` for `keys[i]`; one that has a vector keeps that."""
        size = len(self._matrix)
        if not size:
            return
        for key, vector in zip(keys, vectors, strict=True):
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
                continue
            row = len(self._rows)
            if row == size:
                _, row = self._rows.popitem(last=False)
            self._matrix[row] = vector
            self._rows[key] = row

    @property
    def _vector_bytes(self) -> int:
        return self._width * 4 + ENTRY_BYTES
