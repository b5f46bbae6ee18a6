"""The batcher, over an engine whose vectors say which tokens they come from."""

from __future__ import annotations

import asyncio
import math
import threading
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.batcher import Batcher, EncodedBatch, InputCancelledError
from serve_app.errors import DeadlineExceededError, EngineDeadError, EngineError, NonFiniteError
from serve_app.types import Priority, TokenIds
from tests.batching import HIDDEN, Clock, Engine, batching, raising, tokens, vector


async def test_vectors_come_back_in_the_order_submitted():
    async with batching(engine := Engine()) as batcher:
        mixed = [tokens(n, mark) for mark, n in enumerate([5, 90, 3, 200, 50, 1], 1)]
        encoded = await batcher.submit(mixed)
        np.testing.assert_array_equal(encoded.vectors, [vector(each) for each in mixed])
        assert encoded.vectors.dtype == np.float32
        assert encoded.errors == {}
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


async def test_what_arrives_while_the_engine_is_busy_shares_the_next_batch():
    engine = Engine()
    engine.held = True
    async with batching(engine) as batcher:
        futures = [batcher.submit([tokens(5, 1)]), batcher.submit([tokens(5, 2)])]
        await engine.started()
        futures += [batcher.submit([tokens(5, mark)]) for mark in (3, 4, 5)]
        await asyncio.sleep(0)
        assert engine.marks() == [[1, 2]]
        assert batcher.outstanding_tokens == 25
        assert batcher.running_tokens == 10
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        await asyncio.gather(*futures)
    assert engine.marks() == [[1, 2], [3, 4, 5]]


async def test_both_budgets_hold_and_may_change_while_running():
    async with batching(engine := Engine(), max_batch_tokens=30) as batcher:
        await batcher.submit([tokens(10, mark) for mark in range(1, 7)])
        assert [len(batch) for batch in engine.batches] == [3, 3]
        batcher.max_batch_tokens = 1000
        await batcher.submit([tokens(10, mark) for mark in range(1, 12)])
        assert [len(batch) for batch in engine.batches[2:]] == [8, 3]


async def test_queue_and_inference_seconds_are_the_inputs_own():
    engine = Engine(clock := Clock(), seconds=2.0)
    async with batching(engine, clock=clock, max_batch_tokens=10) as batcher:
        encoded = await batcher.submit([tokens(10, 1), tokens(10, 2), tokens(5, 3)])
        np.testing.assert_array_equal(encoded.queue_seconds, [0, 2, 4])
        np.testing.assert_array_equal(encoded.inference_seconds, [2, 2, 2])
        assert batcher.tokens_per_second == pytest.approx(25 / 6, rel=0.1)
        assert (batcher.computed_tokens, batcher.running_tokens) == (25, 0)


async def test_a_failed_row_fails_alone():
    engine = Engine()
    engine.held = True
    engine.outcomes.put({1})
    async with batching(engine) as batcher:
        futures = [batcher.submit([tokens(2, mark)]) for mark in (1, 2, 3)]
        a, b, c = await asyncio.gather(*futures)
        assert (a.errors, c.errors) == ({}, {})
        assert isinstance(b.errors[0], NonFiniteError)
        assert not b.vectors.any()


@pytest.mark.parametrize("error", [EngineError("out of memory"), ValueError("a bug")])
async def test_a_failed_batch_fails_its_own_inputs_only(error: Exception):
    engine = Engine()
    engine.held = True
    engine.outcomes.put(raising(error))
    engine.outcomes.put(None)
    async with batching(engine, max_batch_inputs=2) as batcher:
        encoded = await batcher.submit([tokens(2, mark) for mark in (1, 2, 3)])
        assert [type(encoded.errors[row]) for row in (0, 1)] == [EngineError, EngineError]
        assert encoded.vectors[2].tolist() == [3, 2, 1]
        assert batcher.healthy


async def test_vectors_of_the_wrong_shape_are_an_error():
    batcher = Batcher(
        lambda batch: EncodedBatch(np.zeros((len(batch) + 1, HIDDEN), np.float32)),
        hidden_size=HIDDEN,
        max_batch_tokens=9,
        max_batch_inputs=9,
    )
    encoded = await batcher.submit([tokens(2, 1)])
    assert isinstance(encoded.errors[0], EngineError)
    await batcher.close()


async def test_cancelled_inputs_are_not_computed():
    engine = Engine()
    engine.held = True
    async with batching(engine) as batcher:
        running = batcher.submit([tokens(2, 1)], gateway="a", ids=[1])
        await engine.started()
        waiting = batcher.submit([tokens(2, mark) for mark in (2, 3)], gateway="a", ids=[2, 3])
        other = batcher.submit([tokens(2, 4)], gateway="b", ids=[2])
        batcher.cancel("a", [1, 2, 77])
        batcher.cancel("nobody", [1])
        assert batcher.outstanding_tokens == 6
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        assert isinstance((await running).errors[0], InputCancelledError)
        assert (await waiting).errors.keys() == {0}
        assert (await other).errors == {}
    assert engine.marks() == [[1], [3, 4]]


async def test_what_was_cancelled_while_running_is_computed_and_dropped():
    engine = Engine()
    engine.held = True
    async with batching(engine) as batcher:
        future = batcher.submit([tokens(2, 1), tokens(2, 2)], gateway="a", ids=[1, 2])
        await engine.started()
        batcher.cancel("a", [1])
        engine.outcomes.put(None)
        encoded = await future
        assert encoded.errors.keys() == {0}
        assert encoded.vectors.tolist() == [[0, 0, 0], [2, 2, 1]]


async def test_cancelling_the_future_cancels_its_inputs():
    engine = Engine()
    engine.held = True
    async with batching(engine) as batcher:
        running = batcher.submit([tokens(2, 1)])
        await engine.started()
        gone = batcher.submit([tokens(2, 2)])
        gone.cancel()
        await asyncio.sleep(0)
        assert batcher.outstanding_tokens == 2
        running.cancel()
        engine.outcomes.put(None)
    assert engine.marks() == [[1]]


async def test_expired_inputs_are_not_computed():
    engine = Engine(clock := Clock())
    engine.held = True
    async with batching(engine, clock=clock) as batcher:
        first = batcher.submit([tokens(2, 1)])
        await engine.started()
        second = batcher.submit([tokens(2, 2), tokens(2, 3)], deadlines=[110.0, 111.0])
        clock.now = 110.0
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        assert (await first).errors == {}
        encoded = await second
        assert isinstance(encoded.errors[0], DeadlineExceededError)
        assert encoded.vectors[1].tolist() == [3, 2, 1]


@pytest.mark.parametrize("error", [SystemExit(1), EngineDeadError("the device is lost")])
async def test_when_the_engine_dies_everything_fails_at_once(error: BaseException):
    engine = Engine()
    engine.held = True
    engine.outcomes.put(raising(error))
    async with batching(engine, max_batch_inputs=1) as batcher:
        encoded = await batcher.submit([tokens(2, 1), tokens(2, 2)])
        assert [type(encoded.errors[row]) for row in (0, 1)] == [EngineDeadError, EngineDeadError]
        assert not batcher.healthy
        assert batcher.outstanding_tokens == 0
        with pytest.raises(EngineDeadError):
            batcher.submit([tokens(2, 3)])


async def test_a_thread_that_vanished_is_noticed():
    engine = Engine()
    async with batching(engine) as batcher:
        batcher._thread.join()
        assert not batcher.healthy
        with pytest.raises(EngineDeadError):
            batcher.submit([tokens(2, 3)])


@pytest.mark.parametrize("drain", [True, False])
async def test_close_drains_or_fails_what_is_left(drain: bool):
    engine = Engine()
    engine.held = True
    async with batching(engine, max_batch_inputs=1) as batcher:
        future = batcher.submit([tokens(2, mark) for mark in (1, 2, 3)])
        await engine.started()
        closing = asyncio.create_task(batcher.close(drain=drain))
        await asyncio.sleep(0)
        with pytest.raises(EngineDeadError):
            batcher.submit([tokens(2, 9)])
        for _ in range(3):
            engine.outcomes.put(None)
        await closing
        assert len((await future).errors) == (0 if drain else 3)
    assert len(engine.batches) == (3 if drain else 1)


async def test_no_inputs_and_missing_ids():
    async with batching(Engine()) as batcher:
        assert (await batcher.submit([])).vectors.shape == (0, HIDDEN)
        with pytest.raises(ValueError, match="every input"):
            batcher.submit([tokens(1, 1), tokens(1, 2)], ids=[1])


@pytest.mark.parametrize("depth", [1, 2])
async def test_bulk_is_not_starved_by_a_flood_of_interactive_inputs(depth: int):
    engine = Engine(clock := Clock(), seconds=0.5)
    async with batching(engine, clock=clock, depth=depth, max_batch_inputs=1) as batcher:
        bulk = batcher.submit([tokens(5, 1)], priorities=[Priority.BULK])
        flood = [batcher.submit([tokens(5, mark)]) for mark in range(2, 40)]
        await asyncio.gather(bulk, *flood)
    # Two seconds of patience are four batches; the flood's lane may lead once more, and `depth` are formed in advance.
    assert [1] in engine.marks()[4 : 6 + depth]


sizes = st.lists(st.sampled_from([1, 4, 10, 11, 40, 99, 130]), min_size=1, max_size=6)
operations = st.one_of(
    st.tuples(st.just("submit"), sizes, st.booleans(), st.sampled_from([math.inf, 1.0, 3.0])),
    st.tuples(st.just("finish"), st.sampled_from(["ok", "ok", "rows", "error", "bug"]), st.integers(0, 7)),
    st.tuples(st.just("cancel"), st.integers(0, 30), st.integers(0, 63)),
    st.tuples(st.just("abandon"), st.integers(0, 30)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 2.5])),
    st.tuples(st.just("budget"), st.sampled_from([10, 50, 120])),
)


class Script:
    """Plays operations against a batcher and keeps the account of what each input may be answered."""

    def __init__(self, depth: int) -> None:
        self.clock = Clock()
        self.engine = Engine()
        self.engine.held = True
        self.depth = depth
        self.budgets = {50}
        self.marks = count(1)
        self.submissions: list[tuple[asyncio.Future, list[TokenIds], float]] = []
        self.cancelled: set[int] = set()
        self.failed: dict[int, type[Exception]] = {}
        self.finished = 0
        self.checked = 0

    async def play(self, script: list[tuple]) -> None:
        async with batching(
            self.engine, clock=self.clock, depth=self.depth, max_batch_tokens=50, max_batch_inputs=4
        ) as self.batcher:
            for name, *arguments in script:
                getattr(self, name)(*arguments)
                await self.settle()
            while self.batcher.outstanding_tokens:
                self.finish("ok", 0)
                await self.settle()
            await self.check()

    async def settle(self) -> None:
        """Until the loop has nothing to do and the engine waits for its next outcome, if it has a batch."""
        for _ in range(3):
            await asyncio.sleep(0)
        while len(self.engine.batches) < self.finished + bool(self.batcher._running):  # noqa: ASYNC110
            await asyncio.sleep(0)
        for batch in self.engine.batches[self.checked :]:
            assert len(batch) <= 4
            assert sum(map(len, batch)) <= max(self.budgets) or len(batch) == 1
        self.checked = len(self.engine.batches)
        self.budgets = {self.batcher.max_batch_tokens} | (self.budgets if self.batcher._running else set())

    def submit(self, sizes: list[int], bulk: bool, patience: float) -> None:
        inputs = [tokens(n, next(self.marks)) for n in sizes]
        deadline = self.clock.now + patience
        n = len(inputs)
        future = self.batcher.submit(
            inputs,
            gateway=f"gateway {len(self.submissions) % 2}",
            ids=[int(each[0]) for each in inputs],
            priorities=[int(bulk)] * n,
            deadlines=[deadline] * n,
        )
        self.submissions.append((future, inputs, deadline))

    def finish(self, how: str, row: int) -> None:
        if not self.batcher._running:
            return
        batch = self.engine.marks()[self.finished]
        self.finished += 1
        if how == "rows":
            self.failed |= dict.fromkeys(batch[row : row + 1], NonFiniteError)
            self.engine.outcomes.put({row})
        elif how == "ok":
            self.engine.outcomes.put(None)
        else:
            self.failed |= dict.fromkeys(batch, EngineError)
            self.engine.outcomes.put(raising(EngineError("failed") if how == "error" else KeyError("failed")))

    def cancel(self, which: int, mask: int) -> None:
        if self.submissions:
            which %= len(self.submissions)
            _, inputs, _ = self.submissions[which]
            ids = [int(each[0]) for bit, each in enumerate(inputs) if mask >> bit & 1]
            self.cancelled.update(ids)
            self.batcher.cancel(f"gateway {which % 2}", ids)

    def abandon(self, which: int) -> None:
        if self.submissions:
            self.submissions[which % len(self.submissions)][0].cancel()

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    def budget(self, budget: int) -> None:
        self.batcher.max_batch_tokens = budget
        self.budgets.add(budget)

    async def check(self) -> None:
        computed = [mark for batch in self.engine.marks() for mark in batch]
        assert len(computed) == len(set(computed)), "an input was computed twice"
        for future, inputs, deadline in self.submissions:
            assert future.done()
            if future.cancelled():
                continue
            encoded = future.result()
            for row, each in enumerate(inputs):
                mark = int(each[0])
                error = encoded.errors.get(row)
                if error is None:
                    assert encoded.vectors[row].tolist() == vector(each)
                    assert mark not in self.failed
                    continue
                assert not encoded.vectors[row].any()
                if isinstance(error, InputCancelledError):
                    assert mark in self.cancelled
                elif isinstance(error, DeadlineExceededError):
                    assert self.clock.now >= deadline
                    assert mark not in computed
                else:
                    assert type(error) is self.failed[mark]


@settings(max_examples=400, deadline=None)
@given(script=st.lists(operations, max_size=40), depth=st.sampled_from([1, 2]))
def test_every_input_is_answered_once_with_its_own_vector(script: list[tuple], depth: int):
    asyncio.run(asyncio.wait_for(Script(depth).play(script), 30))
