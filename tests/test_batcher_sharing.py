"""Equal inputs: computed once while they wait or run, and answered one by one."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.batcher import InputCancelledError
from serve_app.errors import DeadlineExceededError, EngineDeadError, EngineError, NonFiniteError
from tests.batching import Clock, Engine, batching, raising, tokens, vector


async def test_equal_inputs_that_wait_are_computed_once():
    engine = Engine(clock := Clock(), seconds=2.0)
    engine.held = True
    async with batching(engine, share_duplicates=True, max_batch_tokens=20, clock=clock) as batcher:
        first = batcher.submit([tokens(5, 1)])
        await engine.started()
        futures = [
            batcher.submit([tokens(8, 3), tokens(8, 2), tokens(8, 2), tokens(8, 4)]),
            batcher.submit([tokens(8, 2), tokens(7, 2)], priorities=[1, 1]),
        ]
        assert batcher.outstanding_tokens == 5 + 32 + 15
        for _ in range(3):
            engine.outcomes.put(None)
        answers = await asyncio.gather(first, *futures)
        assert engine.marks()[:2] == [[1], [3, 2]]
        assert sorted((int(each[0]), len(each)) for each in engine.batches[2]) == [(2, 7), (4, 8)]
        assert batcher.computed_tokens == 5 + 32 + 15
    for encoded, expected in zip(answers, [[(5, 1)], [(8, 3), (8, 2), (8, 2), (8, 4)], [(8, 2), (7, 2)]], strict=True):
        assert encoded.errors == {}
        assert encoded.vectors.tolist() == [vector(tokens(*each)) for each in expected]
        assert encoded.inference_seconds.tolist() == [2.0] * len(expected)


async def test_what_follows_leaves_room_for_others():
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True, max_batch_tokens=40, max_batch_inputs=4) as batcher:
        first = batcher.submit([tokens(2, 9)])
        await engine.started()
        # By themselves the first four would make a batch.
        short = batcher.submit([tokens(8, mark) for mark in (1, 1, 1, 1, 2, 2, 3)])
        bulk = batcher.submit([tokens(8, 4)], priorities=[1])
        long = batcher.submit([tokens(90, 5)])
        for _ in range(3):
            engine.outcomes.put(None)
        answers = await asyncio.gather(first, short, bulk, long)
    assert engine.marks() == [[9], [1, 2, 3, 4], [5]]
    assert [int(row[0]) for each in answers for row in each.vectors] == [9, 1, 1, 1, 1, 2, 2, 3, 4, 5]


@pytest.mark.parametrize("depth", [1, 2])
async def test_an_input_joins_its_twin_that_runs(depth: int):
    engine = Engine(clock := Clock(), seconds=2.0)
    engine.held = True
    async with batching(engine, share_duplicates=True, depth=depth, clock=clock) as batcher:
        first = batcher.submit([tokens(5, 1)])
        await engine.started()
        clock.now += 1.5
        late = batcher.submit([tokens(5, 1), tokens(6, 1)], deadlines=[clock.now + 0.1, math.inf])
        assert (batcher.outstanding_tokens, batcher.running_tokens) == (16, 10)
        assert len(batcher.queue) == 1
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        answers = [await first, await late]
        assert [each.errors for each in answers] == [{}, {}]
        assert answers[1].vectors.tolist() == [vector(tokens(5, 1)), vector(tokens(6, 1))]
        # It has not waited, and took part in the rest of the run only.
        assert answers[0].inference_seconds.tolist() == [3.5]
        assert (answers[1].queue_seconds[0], answers[1].inference_seconds[0]) == (0, 2)
        assert batcher.computed_tokens == 16
        again = batcher.submit([tokens(5, 1)])  # nothing is kept
        engine.outcomes.put(None)
        await again
    assert [(len(batch[0]), int(batch[0][0])) for batch in engine.batches] == [(5, 1), (6, 1), (5, 1)]


async def test_who_joined_is_answered_though_the_first_has_left():
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True) as batcher:
        first = batcher.submit([tokens(5, 1)])
        await engine.started()
        first.cancel()
        await asyncio.sleep(0)
        late = [batcher.submit([tokens(5, 1)], gateway="g", ids=[i]) for i in range(3)]
        late[0].cancel()
        batcher.cancel("g", [1])
        engine.outcomes.put(None)
        assert isinstance((await late[1]).errors[0], InputCancelledError)
        assert (await late[2]).vectors.tolist() == [vector(tokens(5, 1))]
    assert engine.marks() == [[1]]


async def test_nobody_joins_what_has_failed():
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True) as batcher:
        for outcome in (raising(EngineError("all of it")), {0}):
            failing = batcher.submit([tokens(5, 1)])
            await engine.started()
            joined = batcher.submit([tokens(5, 1)])
            engine.outcomes.put(outcome)
            errors = [(await each).errors[0] for each in (failing, joined)]
            assert errors[0] is errors[1]
        good = batcher.submit([tokens(5, 1)])
        engine.outcomes.put(None)
        assert (await good).errors == {}
        dying = batcher.submit([tokens(5, 1)])
        await engine.started()
        await engine.started()
        joined = batcher.submit([tokens(5, 1)])
        engine.outcomes.put(raising(EngineDeadError("the device is lost")))
        assert [type((await each).errors[0]) for each in (dying, joined)] == [EngineDeadError] * 2
        with pytest.raises(EngineDeadError):
            batcher.submit([tokens(5, 1)])
        assert batcher.running_tokens == 0


async def test_equal_inputs_share_errors_and_are_dropped_one_by_one():
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True) as batcher:
        first = batcher.submit([tokens(5, 9)])
        await engine.started()
        same, other = [tokens(5, 1)], [tokens(5, 2)]
        asking = [batcher.submit(same, gateway="g", ids=[i]) for i in range(4)] + [batcher.submit(other)]
        batcher.cancel("g", [0])  # while it waits: the first of them
        engine.outcomes.put(None)
        await engine.started()
        batcher.cancel("g", [1])  # while it runs
        engine.outcomes.put({0})
        await first
        cancelled, stopped, *failed, good = [(await future).errors.get(0) for future in asking]
        assert isinstance(cancelled, InputCancelledError)
        assert isinstance(stopped, InputCancelledError)
        assert [str(error) for error in failed] == ["0", "0"]
        assert good is None
        assert engine.marks() == [[9], [1, 2]]
        engine.outcomes.put(raising(EngineError("all of it")))
        both = await batcher.submit(same * 2)
        assert [str(both.errors[row]) for row in range(2)] == ["all of it"] * 2


async def test_equal_inputs_are_each_computed_where_they_may_not_share():
    async with batching(engine := Engine()) as batcher:
        await batcher.submit([tokens(5, 1)] * 3)
        assert engine.marks() == [[1, 1, 1]]
        waiting = batcher.submit([tokens(5, 1)] * 2)
        batcher.share_duplicates = True  # for what comes from now on
        await asyncio.gather(waiting, batcher.submit([tokens(5, 1)] * 2))
        assert engine.marks()[1:] == [[1, 1, 1]]


async def test_nobody_joins_where_inputs_may_not_share():
    engine = Engine()
    engine.held = True
    async with batching(engine, share_duplicates=True) as batcher:
        first = batcher.submit([tokens(5, 1)])
        await engine.started()
        batcher.share_duplicates = False
        second = batcher.submit([tokens(5, 1)])
        engine.outcomes.put(None)
        await engine.started()
        batcher.share_duplicates = True  # what runs now has come without
        third = batcher.submit([tokens(5, 1)])
        engine.outcomes.put(None)
        engine.outcomes.put(None)
        await asyncio.gather(first, second, third)
    assert engine.marks() == [[1], [1], [1]]


Key = tuple[int, int]
kinds = st.tuples(st.sampled_from([1, 4, 11, 30]), st.integers(1, 3))
operations = st.one_of(
    st.tuples(
        st.just("submit"), st.lists(kinds, min_size=1, max_size=6), st.booleans(), st.sampled_from([1.0, math.inf])
    ),
    st.tuples(
        st.just("submit"), st.lists(kinds, min_size=1, max_size=3), st.booleans(), st.sampled_from([1.0, math.inf])
    ),
    st.tuples(st.just("finish"), st.sampled_from(["ok", "ok", "row", "error"]), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("abandon"), st.integers(0, 20)),
    st.tuples(st.just("advance"), st.sampled_from([0.4, 1.5])),
    st.tuples(st.just("die")),
)


@dataclass
class Asked:
    """An input as it was submitted, and the moment when."""

    key: Key
    id: int
    moment: int
    deadline: float


@dataclass
class Script:
    """Plays operations and keeps the account of what may be computed, and what each input may be answered."""

    depth: int
    engine: Engine = field(default_factory=Engine)
    clock: Clock = field(default_factory=Clock)
    submissions: list[tuple[asyncio.Future, list[Asked]]] = field(default_factory=list)
    alive: set[Key] = field(default_factory=set)  # that wait or run
    allowed: Counter[Key] = field(default_factory=Counter)
    failed: dict[Key, list[tuple[int, type[Exception]]]] = field(default_factory=lambda: defaultdict(list))
    cancelled: set[int] = field(default_factory=set)
    moment: int = 0
    finished: int = 0
    dead: bool = False

    async def play(self, script: list[tuple]) -> None:
        self.engine.held = True
        options = {"depth": self.depth, "clock": self.clock, "max_batch_tokens": 40, "max_batch_inputs": 4}
        async with batching(self.engine, share_duplicates=True, **options) as self.batcher:
            for self.moment, (name, *arguments) in enumerate(script):
                if not self.dead:
                    getattr(self, name)(*arguments)
                    await self.settle()
            while self.batcher.outstanding_tokens:
                self.finish("ok", 0)
                await self.settle()
            self.check()

    async def settle(self) -> None:
        """Until the loop has nothing to do, all that was finished has come back, and the engine waits for its next outcome, if it has
        a batch."""
        for _ in range(3):
            await asyncio.sleep(0)
        running = self.batcher._running
        while len(self.engine.batches) < self.finished + bool(running) or any(each.ended for each in running._batches):  # noqa: ASYNC110
            await asyncio.sleep(0)

    def submit(self, wanted: list[Key], bulk: bool, patience: float) -> None:
        first = sum(len(asked) for _, asked in self.submissions)
        deadline = self.clock.now + patience
        asked = [Asked(key, first + row, self.moment, deadline) for row, key in enumerate(wanted)]
        future = self.batcher.submit(
            [tokens(*key) for key in wanted],
            ids=[each.id for each in asked],
            priorities=[int(bulk)] * len(wanted),
            deadlines=[deadline] * len(wanted),
        )
        self.submissions.append((future, asked))
        for key in set(wanted) - self.alive:
            self.allowed[key] += 1
            self.alive.add(key)

    def running(self) -> list[Key]:
        return [(len(each), int(each[0])) for each in self.engine.batches[self.finished]]

    def finish(self, how: str, row: int) -> None:
        if not self.batcher._running:
            return
        batch = self.running()
        self.finished += 1
        self.alive.difference_update(batch)
        if how == "row":
            for key in batch[row : row + 1]:
                self.failed[key].append((self.moment, NonFiniteError))
        elif how == "error":
            for key in batch:
                self.failed[key].append((self.moment, EngineError))
        self.engine.outcomes.put({"ok": None, "row": {row}, "error": raising(EngineError("failed"))}[how])

    def cancel(self, id_: int) -> None:
        self.batcher.cancel("", [id_])
        self.cancelled.add(id_)

    def abandon(self, which: int) -> None:
        if self.submissions:
            self.submissions[which % len(self.submissions)][0].cancel()

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds

    def die(self) -> None:
        if self.batcher._running:
            self.dead = True
            self.finished += 1
            self.engine.outcomes.put(raising(EngineDeadError("gone")))

    def check(self) -> None:
        assert all(self.engine.batches), "a batch of nothing"
        computed = Counter((len(each), int(each[0])) for batch in self.engine.batches for each in batch)
        assert computed <= self.allowed, "computed again beside its twin"
        for future, asked in self.submissions:
            assert future.done()
            if future.cancelled():
                continue
            encoded = future.result()
            for row, each in enumerate(asked):
                error = encoded.errors.get(row)
                if error is None:
                    assert encoded.vectors[row].tolist() == vector(tokens(*each.key))
                elif isinstance(error, InputCancelledError):
                    assert each.id in self.cancelled
                elif isinstance(error, DeadlineExceededError):
                    assert self.clock.now >= each.deadline
                elif isinstance(error, EngineDeadError):
                    assert self.dead
                else:
                    assert any(when >= each.moment and type(error) is kind for when, kind in self.failed[each.key])


@given(script=st.lists(operations, max_size=30), depth=st.sampled_from([1, 2]))
@settings(max_examples=100, deadline=None)
def test_sharing_answers_everyone_with_their_own(script: list[tuple], depth: int) -> None:
    asyncio.run(asyncio.wait_for(Script(depth).play(script), 30))
