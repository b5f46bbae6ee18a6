"""The input queue: order, budgets, bookkeeping, and the bound on waiting."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.lane import QueuedInput
from serve_app.engine.queue import InputQueue, QueuePolicy
from serve_app.types import Priority

LOW = QueuePolicy(class_bounds=(10, 100), class_patience_s=(0.0, 1.0, 5.0), bulk_patience_s=2.0)


def item(tokens: int, arrival: float = 0.0, *, bulk: bool = False, deadline: float = math.inf) -> QueuedInput:
    return QueuedInput(tokens, Priority.BULK if bulk else Priority.INTERACTIVE, deadline, arrival)


def queue_of(*items: QueuedInput) -> InputQueue[QueuedInput]:
    queue: InputQueue[QueuedInput] = InputQueue(LOW)
    for each in items:
        queue.push(each)
    return queue


def test_a_lane_is_first_come_first_served():
    items = [item(5, float(i)) for i in range(5)]
    queue = queue_of(*items)
    assert queue.take(10, 99, now=9.0) == items[:2]
    assert queue.take(99, 1, now=9.0) == [items[2]]
    assert queue.take(99, 99, now=9.0) == items[3:]
    assert queue.take(99, 99, now=9.0) == []


def test_class_bounds_are_inclusive():
    assert [LOW.lane(tokens, Priority.INTERACTIVE) for tokens in (1, 10, 11, 100, 101)] == [0, 0, 2, 2, 4]
    assert LOW.lane(10, Priority.BULK) == 1
    assert [LOW.patience(lane) for lane in range(LOW.lanes)] == [0, 2, 1, 3, 5, 7]


def test_the_budget_is_exact():
    items = [item(5), item(5), item(5)]
    assert queue_of(*items).take(10, 99, now=0.0) == items[:2]
    items = [item(5), item(5), item(5)]
    assert queue_of(*items).take(9, 99, now=0.0) == items[:1]


def test_the_budget_counts_costs_and_the_backlog_tokens():
    items = [item(9) for _ in range(5)]
    for each in items:
        each.cost = 3
    queue = queue_of(*items, long := item(80))
    assert queue.tokens == 125
    assert queue.take(10, 99, now=0.0) == items[:3]
    assert queue.take(10, 99, now=0.0) == items[3:]
    short = item(9, 5.0)
    short.cost, long.cost = 7, 4
    queue.push(short)
    assert queue.take(10, 99, now=9.0) == [long]  # long leads; what is left doesn't hold the other
    assert queue.take(10, 99, now=9.0) == [short]


def test_an_input_over_the_budget_is_taken_alone():
    big, small = item(500), item(3)
    queue = queue_of(big)
    queue.push(small)
    assert queue.take(50, 99, now=0.0) == [small]
    queue.push(late := item(3, 9.0))
    assert queue.take(50, 99, now=9.0) == [big]
    assert queue.take(50, 99, now=9.0) == [late]


def test_interactive_overtakes_bulk_and_short_overtakes_long():
    long, bulk, short = item(50, 0.0), item(5, 0.1, bulk=True), item(5, 0.5)
    queue = queue_of(long, bulk, short)
    assert queue.take(5, 99, now=0.5) == [short]
    assert queue.take(50, 99, now=0.5) == [long]
    assert queue.take(50, 99, now=0.5) == [bulk]


def test_an_aged_bulk_backlog_leads_once_and_then_lets_interactive_pass_again():
    bulk = [item(5, 0.0, bulk=True) for _ in range(100)]
    queue = queue_of(*bulk)
    interactive = [item(5, 60.0 + i) for i in range(3)]
    for each in interactive:
        queue.push(each)
    assert queue.take(5, 99, now=63.0) == [bulk[0]]
    for i, each in enumerate(interactive):
        assert queue.take(5, 99, now=63.0 + i / 10) == [each]
    assert queue.take(5, 99, now=64.0) == [bulk[1]]


def test_fill_comes_from_the_same_or_a_shorter_class_only():
    long, bulk_short, medium, short = item(200, 0.0), item(5, 6.0, bulk=True), item(50, 6.1), item(5, 6.2)
    queue = queue_of(long, bulk_short, medium, short)
    assert queue.take(1000, 99, now=6.2) == [long, short, medium, bulk_short]
    queue = queue_of(item(200, 6.0), item(50, 6.0), s := item(5, 6.0), b := item(5, 6.0, bulk=True))
    assert queue.take(1000, 99, now=6.2) == [s, b]
    assert queue.take(1000, 99, now=6.2) != [s, b]


def test_fill_respects_both_budgets():
    for inputs, expected in ((99, [95, 2, 2]), (2, [95, 2]), (1, [95])):
        queue = queue_of(item(95, 0.0), *(item(2, 5.0) for _ in range(9)))
        assert [each.tokens for each in queue.take(100, inputs, now=9.0)] == expected


def test_peek_stays_in_the_lane_and_removes_nothing():
    queue = queue_of(a := item(5), item(50), item(5, bulk=True), b := item(5))
    assert queue.leader() == 0
    assert queue.peek(0, 1000, 99) == [a, b]
    assert len(queue) == 4
    queue.lead(0, [a, b], now=0.0)
    assert len(queue) == 2
    assert queue.peek(0, 1000, 99) == []
    assert queue.leader(skip={2}) == 1
    assert queue.leader(skip={1, 2}) is None


def test_discarded_inputs_are_never_taken_and_their_memory_is_let_go():
    items = [item(5, float(i), deadline=1e9) for i in range(10_000)]
    queue = queue_of(*items)
    for each in items[1:]:
        assert queue.discard(each)
        assert not queue.discard(each)
    assert (len(queue), queue.tokens) == (1, 5)
    assert len(queue._deadlines) <= 66
    assert sum(len(lane.inputs) for lane in queue._lanes) <= 66
    assert queue.take(1000, 99, now=0.0) == [items[0]]
    assert not queue.discard(items[0])


def test_expired_inputs_leave_at_their_deadline():
    items = [item(5, deadline=3.0), item(5), item(50, deadline=1.0), item(5, deadline=2.0, bulk=True)]
    queue = queue_of(*items)
    assert queue.drop_expired(0.99) == []
    assert queue.drop_expired(2.0) == [items[2], items[3]]
    assert queue.take(99, 99, now=2.5) == [items[0], items[1]]
    assert queue.drop_expired(10.0) == []


def test_requeued_inputs_go_in_front_in_their_order():
    items = [item(5, 1.0) for _ in range(6)]
    queue = queue_of(item(5, 0.5), *items)
    first = queue.take(15, 99, now=1.0)
    again = [item(5, each.arrival) for each in first[1:]]
    queue.requeue(again)
    assert queue.take(99, 99, now=2.0) == [*again, *items[2:]]


def test_an_input_that_arrived_earlier_is_sorted_in():
    a, b, c = item(5, 1.0), item(5, 3.0), item(5, 2.0)
    assert queue_of(a, b, c).take(99, 99, now=4.0) == [a, c, b]


def test_size_tokens_and_age():
    queue = queue_of(item(5, 2.0), item(50, 1.0))
    assert (len(queue), queue.tokens, queue.oldest_age(5.0)) == (2, 55, 4.0)
    queue.take(5, 1, now=0.0)
    queue.take(50, 1, now=0.0)
    assert (len(queue), queue.tokens, queue.oldest_age(5.0)) == (0, 0, 0.0)


def test_misuse_is_refused():
    queue = queue_of(first := item(5))
    with pytest.raises(ValueError, match="once"):
        queue.push(first)
    with pytest.raises(ValueError, match="rise"):
        QueuePolicy(class_bounds=(10, 10), class_patience_s=(0, 0, 0))
    with pytest.raises(ValueError, match="more"):
        QueuePolicy(class_bounds=(10,), class_patience_s=(0,))


arrivals = st.lists(st.tuples(st.sampled_from([1, 5, 10, 11, 60, 100, 101, 300]), st.booleans()), max_size=6)
steps = st.lists(st.tuples(st.sampled_from([0.01, 0.3, 1.0, 4.0]), arrivals, st.booleans()), max_size=60)


@settings(max_examples=150, deadline=None)
@given(steps=steps, budget=st.sampled_from([8, 50, 120]), inputs=st.integers(1, 8))
def test_nothing_is_lost_doubled_over_budget_or_starved(steps, budget, inputs):
    queue: InputQueue[QueuedInput] = InputQueue(LOW)
    waiting: dict[int, list[QueuedInput]] = {lane: [] for lane in range(LOW.lanes)}
    led_at = dict.fromkeys(waiting, -math.inf)
    passed_over = dict.fromkeys(waiting, 0)
    now = 0.0

    def take() -> None:
        taken = queue.take(budget, inputs, now)
        assert bool(taken) == any(waiting.values())
        if not taken:
            return
        leader = taken[0].lane
        assert len(taken) <= inputs
        assert sum(each.tokens for each in taken) <= budget or len(taken) == 1
        assert all(each.lane // 2 <= leader // 2 for each in taken)
        for lane, items in waiting.items():
            due = bool(items) and max(items[0].arrival, led_at[lane]) + LOW.patience(lane) < now
            served = lane in {each.lane for each in taken}  # as leader, or along with a longer one
            passed_over[lane] = passed_over[lane] + 1 if due and not served else 0
            assert passed_over[lane] < LOW.lanes, "an overdue lane was passed over twice by another"
        led_at[leader] = now
        for lane, items in waiting.items():
            gone = [each for each in taken if each.lane == lane]
            assert items[: len(gone)] == gone, "a lane is first come, first served"
            del items[: len(gone)]

    for pause, sizes, discard in steps:
        now += pause
        for tokens, bulk in sizes:
            queue.push(new := item(tokens, now, bulk=bulk))
            waiting[new.lane].append(new)
        if discard and (lanes := [lane for lane, items in waiting.items() if items]):
            queue.discard(waiting[lanes[0]].pop(len(waiting[lanes[0]]) // 2))
        take()
        assert len(queue) == sum(map(len, waiting.values()))
        assert queue.tokens == sum(each.tokens for items in waiting.values() for each in items)
    while any(waiting.values()):
        now += 0.01
        take()
    assert (len(queue), queue.tokens) == (0, 0)


def test_the_patience_can_change_while_inputs_wait() -> None:
    queue: InputQueue[QueuedInput] = InputQueue(QueuePolicy(bulk_patience_s=100.0))
    bulk = QueuedInput(1, Priority.BULK, math.inf, arrival=0.0)
    interactive = QueuedInput(1, Priority.INTERACTIVE, math.inf, arrival=5.0)
    queue.push(bulk)
    queue.push(interactive)
    assert queue.leader() == interactive.lane
    queue.policy = QueuePolicy(bulk_patience_s=1.0)
    assert queue.leader() == bulk.lane
    with pytest.raises(ValueError, match="length classes"):
        queue.policy = QueuePolicy(class_bounds=(1, 2, 3))
