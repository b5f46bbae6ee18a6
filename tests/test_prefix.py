"""Prefixes that inputs share: found, computed once, kept within bounds, and never seen in a vector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.engine import Engine
from serve_app.engine.prefix_cache import cost
from serve_app.engine.prefix_finder import PrefixFinder, head_of
from serve_app.types import TokenIds
from tests.checkpoints import SHAPES, checkpoint, random_ids
from tests.test_engine import assert_same, reference


def fresh(shape: str = "demo", **options: int) -> Engine:
    return Engine.load(str(checkpoint(shape)), device="cpu", verify=False, **options)  # type: ignore[arg-type]


@cache
def off(shape: str = "demo") -> Engine:
    return fresh(shape, prefix_cache_mb=0)


def behind(prefix: TokenIds, lengths: list[int], seed: int, vocab_size: int = 1280) -> list[TokenIds]:
    """Inputs of so many own tokens after the prefix; each parts from the others at once."""
    own = random_ids(lengths, vocab_size, seed)
    for i, ids in enumerate(own):
        ids[:1] = (seed + i) % vocab_size
    return [np.concatenate([prefix, ids]) for ids in own]


@pytest.mark.parametrize("shape", SHAPES)
def test_reuse_gives_the_vectors_of_transformers(shape: str) -> None:
    vocab_size = SHAPES[shape].vocab_size
    one, other, plain = random_ids([27, 40, 40], vocab_size, seed=1)
    ids = [
        *behind(one, [1, 3, 9, 9, 30], 2, vocab_size),
        *behind(other, [9, 1, 9, 200], 3, vocab_size),
        plain,
        one,
        one[:20],
        np.append(one, other),
    ]
    ids = [ids[i] for i in np.random.default_rng(4).permutation(len(ids))]
    engine = fresh(shape)
    expected = np.stack([reference(shape)(each) for each in ids])
    longer = [i for i, each in enumerate(ids) if len(each) != 27]
    assert_same(engine.encode([ids[i] for i in longer]), expected[longer])
    assert len(engine.prefixes) == 2
    vectors, _, reused = engine.encode_checked(ids)
    assert_same(vectors, expected)
    assert sorted(reused) == [0, 0, 0, *[27] * 6, *[40] * 4]
    assert np.abs(off(shape).encode(ids) - vectors).max() <= 1e-5


def test_an_input_equal_to_a_prefix_reuses_the_shorter_one_only() -> None:
    long = random_ids([60], 1280)[0]
    short = long[:25]
    engine = fresh()
    engine.encode(behind(short, [5] * 5, 1))
    engine.encode(behind(long, [5] * 5, 2))
    assert len(engine.prefixes) == 2
    ids = [long, short, long[:59], long[:26], np.append(long, long[:1])]
    vectors, _, reused = engine.encode_checked(ids)
    assert reused == [25, 0, 25, 25, 60]
    assert_same(vectors, np.stack([reference("demo")(each) for each in ids]))


def test_what_a_prefix_costs_is_its_first_inputs() -> None:
    """Computed and reused tokens make up all tokens: nothing is counted twice, nothing left out."""
    ids = behind(random_ids([30], 1280)[0], [10] * 6, 1)
    engine = fresh()
    assert engine.encode_checked(ids[:3]).reused == [0, 0, 0]
    assert engine.encode_checked(ids[3:]).reused == [0, 30, 30]
    assert engine.encode_checked(ids).reused == [30] * 6


def test_memory_is_bounded_and_the_prefix_used_last_stays() -> None:
    engine = fresh()
    first, second, third = random_ids([30, 31, 32], 1280)
    engine.encode(behind(first, [4] * 4, 1))
    each = engine.prefixes.nbytes
    config = engine.config
    assert each == 30 * 2 * 4 * config.num_hidden_layers * config.key_value_size
    engine.prefixes.resize(int(2.5 * each))
    engine.encode(behind(second, [4] * 4, 2))
    again = behind(first, [4] * 2, 3)
    assert engine.encode_checked(again).reused == [30, 30]
    engine.encode(behind(third, [4] * 4, 4))
    assert len(engine.prefixes) == 2
    assert engine.prefixes.nbytes <= 2.5 * each
    assert engine.encode_checked(again).reused == [30, 30]
    evicted = behind(second, [4] * 2, 5)
    vectors, _, reused = engine.encode_checked(evicted)
    assert reused == [0, 0]
    assert np.abs(vectors - off().encode(evicted)).max() <= 1e-5
    engine.keep_prefixes(0)
    assert (len(engine.prefixes), engine.encode_checked(again).reused) == (0, [0, 0])


def test_one_that_is_larger_than_the_memory_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fresh()
    engine.prefixes.resize(1000)
    monkeypatch.setattr(engine.model, "prefix", lambda _: pytest.fail("computed"))
    engine.encode(behind(random_ids([30], 1280)[0], [4] * 6, 1))
    assert engine.prefixes.nbytes == 0


def test_budgets_count_what_is_computed() -> None:
    ids = behind(random_ids([30], 1280)[0], [10] * 12, 1)
    engine = fresh(max_batch_tokens=60)
    engine.encode(ids)
    shared, _ = engine.prefixes.share(ids)
    assert [len(batch) for batch in engine.batches([40] * 12, shared)] == [6, 6]
    assert [len(batch) for batch in engine.batches([40] * 12)] == [1] * 12
    assert engine.prefixes.cost(ids[0]) == 10
    assert engine.prefixes.cost(ids[0][:30]) == 30
    assert (cost(500, 490), cost(500, 100)) == (125, 400)


def test_bfloat16_with_reuse_is_near_float32() -> None:
    ids = behind(random_ids([30], 1280)[0], [1, 5, 10, 20, 40], 1)
    vectors = fresh(dtype="bfloat16").encode(ids)  # type: ignore[arg-type]
    assert (vectors * off().encode(ids)).sum(1).min() > 0.999


def test_a_prefix_that_is_not_finite_fails_its_inputs_alone() -> None:
    engine = fresh()
    engine.model.embedding[42] = float("nan")
    good, bad = random_ids([20, 20], 1280)
    good[good == 42], bad[3] = 1, 42
    ids = behind(good, [3] * 5, 1) + behind(bad, [3] * 5, 2)
    for _ in range(2):
        vectors, failed, _ = engine.encode_checked(ids)
        assert failed == [5, 6, 7, 8, 9]
        assert np.abs(vectors[:5] - off().encode(ids[:5])).max() <= 1e-5


def test_threads_may_share_the_prefixes() -> None:
    engine = fresh()
    engine.prefixes.resize(200_000)
    prefixes = random_ids([30, 31, 32, 33], 1280)
    wrong = []

    def work(seed: int) -> None:
        for turn in range(10):
            ids = behind(prefixes[(seed + turn) % 4], [3, 5, 5, 8], 50 * seed + turn)
            if not np.abs(engine.encode(ids) - off().encode(ids)).max() <= 1e-5:
                wrong.append((seed, turn))
            engine.prefixes.cost(ids[0])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert 0 < engine.prefixes.nbytes <= 200_000


few = st.lists(st.integers(0, 2), min_size=1, max_size=30)


@given(
    heads=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=24), min_size=1, max_size=3),
    rounds=st.lists(st.lists(st.tuples(st.integers(0, 3), few), min_size=1, max_size=12), min_size=1, max_size=4),
    tokens=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_any_inputs_have_the_vectors_they_have_without_reuse(
    heads: list[list[int]], rounds: list[list[tuple[int, list[int]]]], tokens: int
) -> None:
    engine = reusing()
    engine.prefixes.resize(0)
    config = engine.config
    engine.prefixes.resize(tokens * 8 * config.num_hidden_layers * config.key_value_size)
    for inputs in rounds:
        ids = [np.array([*(heads[which] if which < len(heads) else []), *own], np.int32) for which, own in inputs]
        vectors, bad, reused = engine.encode_checked(ids)
        assert bad == []
        assert all(0 <= count < len(each) for count, each in zip(reused, ids, strict=True))
        assert np.abs(vectors - off().encode(ids)).max() <= 1e-5
        assert engine.prefixes.nbytes <= tokens * 8 * config.num_hidden_layers * config.key_value_size


@cache
def reusing() -> Engine:
    return fresh()


def found(finder: PrefixFinder, kept: int = 0) -> list[list[int]]:
    return [np.frombuffer(head, ">i4").tolist() for head in finder.found(lambda _: kept)]


def marked(prefix: list[int], n: int, first: int = 100) -> Iterator[TokenIds]:
    for mark in range(first, first + n):
        yield np.array([*prefix, mark, 7], np.int32)


def test_a_prefix_is_found_at_its_fourth_sighting() -> None:
    finder = PrefixFinder()
    prefix = list(range(10))
    for ids in marked(prefix, 3):
        finder.see(ids)
        assert found(finder) == []
    for ids in marked(prefix, 4, first=103):
        finder.see(ids)
    assert found(finder) == [prefix]
    assert found(finder) == []


def test_the_same_input_again_is_no_sighting() -> None:
    finder = PrefixFinder()
    for _ in range(20):
        finder.see(np.arange(20, dtype=np.int32))
    assert found(finder) == []


def test_short_ones_and_small_gains_are_not_worth_it() -> None:
    finder = PrefixFinder()
    for ids in marked([1] * 7, 20):
        finder.see(ids)
    assert found(finder) == []
    for ids in marked(list(range(20)), 20):
        finder.see(ids)
    assert found(finder, kept=13) == []
    finder.see(np.arange(30, dtype=np.int32))
    assert found(PrefixFinder()) == []


def test_the_one_that_spares_most_comes_first() -> None:
    finder = PrefixFinder()
    shared = list(range(20))
    for ids in [*marked(shared, 8), *marked([*shared, *range(30, 42)], 4)]:
        finder.see(ids)
    assert found(finder) == [shared]  # all twelve are spent on it
    for ids in marked([*shared, *range(30, 42)], 4):
        finder.see(ids)
    assert found(finder, kept=20) == [[*shared, *range(30, 42)]]


def test_heads_sort_as_ids_do() -> None:
    ids = random_ids([3] * 50, 151669)
    assert sorted(ids, key=lambda one: head_of(one, 3)) == sorted(ids, key=lambda one: one.tolist())
    assert torch.equal(torch.tensor(np.frombuffer(head_of(ids[0], 2), ">i4").tolist()), torch.from_numpy(ids[0][:2]))


def test_of_many_inputs_the_last_ones_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    finder = PrefixFinder()
    monkeypatch.setattr(finder, "see", lambda ids: seen.append(len(ids)))
    finder.see_all([np.zeros(length, np.int32) for length in [*range(9, 400), *[3] * 300]])
    assert seen == [*range(400 - 256, 400)]


def test_clearing_forgets_prefixes_and_inputs() -> None:
    engine = fresh()
    prefix = random_ids([40], 1280)[0]
    inputs = behind(prefix, [5, 6, 7], 1)
    engine.encode(inputs)  # not yet four
    engine.prefixes.clear()
    engine.encode(behind(prefix, [5, 6, 7], 2))
    assert len(engine.prefixes) == 0
    engine.encode(inputs)
    assert len(engine.prefixes) == 1
    engine.prefixes.clear()
    assert len(engine.prefixes) == engine.prefixes.nbytes == 0
    assert engine.encode_checked(inputs).reused == [0] * 3
