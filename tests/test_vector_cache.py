"""Vectors by key in bounded memory, against a plain model of it."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.vector_cache import ENTRY_BYTES, VectorCache

WIDTH = 4
EACH = WIDTH * 4 + ENTRY_BYTES


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def vectors(*numbers: int) -> np.ndarray:
    return np.array([[number + 0.5] * WIDTH for number in numbers], np.float32).reshape(-1, WIDTH)


def test_without_memory_nothing_is_kept() -> None:
    for capacity in (0, EACH - 1):
        cache = VectorCache(WIDTH, capacity)
        cache.keep([key(1)], vectors(1))
        places, found = cache.find([key(1)])
        assert (places, found.shape, len(cache), cache.nbytes) == ([], (0, WIDTH), 0, 0)


def test_what_it_gives_away_is_not_its_own() -> None:
    cache = VectorCache(WIDTH, EACH)
    given_to_it = vectors(1)
    cache.keep([key(1)], given_to_it)
    given_to_it[:] = 7
    _, found = cache.find([key(1)])
    found[:] = 8
    cache.keep([key(2)], vectors(2))
    assert cache.find([key(1), key(2)])[1].tolist() == vectors(2).tolist()


def test_memory_is_what_it_says() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    cache = VectorCache(WIDTH, 20_000 * EACH)
    tracemalloc.start()
    try:
        for number in range(20_000):
            cache.keep([bytes(key(number))], vectors(number))
        # Of the entries; the matrix was made before.
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.5 * ENTRY_BYTES < taken / 20_000 < ENTRY_BYTES
    assert cache.nbytes == 20_000 * EACH


steps = st.one_of(
    st.tuples(st.just("keep"), st.lists(st.integers(0, 9), max_size=6)),
    st.tuples(st.just("find"), st.lists(st.integers(0, 9), max_size=6)),
    st.tuples(st.just("resize"), st.integers(0, 5)),
)


@given(st.lists(steps, max_size=30))
def test_it_keeps_those_used_last(script: list[tuple]) -> None:
    cache, model, size = VectorCache(WIDTH, 3 * EACH), OrderedDict[int, None](), 3
    for name, argument in script:
        if name == "keep":
            cache.keep([key(number) for number in argument], vectors(*argument))
            for number in argument:
                model[number] = None
                model.move_to_end(number)
                while len(model) > size:
                    model.popitem(last=False)
        elif name == "find":
            places, found = cache.find([key(number) for number in argument])
            assert places == [place for place, number in enumerate(argument) if number in model]
            assert found.tolist() == vectors(*[argument[place] for place in places]).tolist()
            for place in places:
                model.move_to_end(argument[place])
        else:
            size = argument
            cache.resize(size * EACH + 5)
            while len(model) > size:
                model.popitem(last=False)
        assert len(cache) == len(model)
        assert cache.nbytes == len(model) * EACH <= size * EACH
    places, _ = cache.find([key(number) for number in range(10)])
    assert places == sorted(model)
