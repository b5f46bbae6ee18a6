"""The gateway's view of the replicas."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.cluster.replicas import ReplicaSet
from serve_app.types import ReplicaStatus


class World:
    """A clock and its timers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now + delay, callback))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, callback in due:
            callback()


def view_of(*names: str, **options: float) -> tuple[ReplicaSet, World]:
    world = World()
    view = ReplicaSet(clock=lambda: world.now, call_later=world.call_later, **options)  # type: ignore[arg-type]
    view.set_replicas(names)
    return view, world


def reply(outstanding: int = 0, rate: float = 0.0) -> ReplicaStatus:
    return ReplicaStatus("", outstanding, rate)


def test_the_least_loaded_replica_with_a_slot_is_chosen():
    view, _ = view_of("a", "b", "c")
    assert [view.try_acquire(0, tokens) for tokens in (100, 10, 50)] == ["a", "b", "c"]
    assert [view.try_acquire(0, 50) for _ in range(3)] == ["b", "c", "a"]
    assert view.try_acquire(0, 1) is None
    assert view.outstanding_tokens == 310


def test_ties_go_round():
    view, _ = view_of("a", "b", "c")
    chosen = []
    for _ in range(6):
        name = view.try_acquire(0, 5)
        assert name is not None
        view.release(name, 0, 5, reply())
        chosen.append(name)
    assert chosen == ["a", "b", "c"] * 2


def test_lanes_have_their_own_slots():
    view, _ = view_of("a")
    assert [view.try_acquire(4, 8000) for _ in range(3)] == ["a", "a", None]
    assert view.try_acquire(0, 10) == "a"
    view.release("a", 4, 8000, None)
    assert view.try_acquire(4, 8000) == "a"


def test_replies_correct_the_load_and_their_news_ages():
    view, world = view_of("a", "b")
    assert view.try_acquire(0, 10) == "a"
    view.release("a", 0, 10, reply(outstanding=1000, rate=100.0))
    assert view.outstanding_tokens == 1000
    assert view.tokens_per_second == 100.0
    assert [view.try_acquire(0, 10), view.try_acquire(0, 10)] == ["b", "b"]
    view.release("b", 0, 10, reply(outstanding=10))
    assert view.outstanding_tokens == 1010, "of the 10 tokens outstanding at b, all are our own"
    world.advance(9.95)
    assert view.try_acquire(0, 10) == "a"


def test_excluded_replicas_are_used_only_if_there_are_no_others():
    view, _ = view_of("a", "b", slots_per_class=1)
    assert view.try_acquire(0, 1, {"a"}) == "b"
    assert view.try_acquire(0, 1, {"a"}) is None
    assert view.try_acquire(0, 1, {"a", "b"}) == "a"
    view.set_replicas(["a"])
    view.release("a", 0, 1, None)
    assert view.try_acquire(0, 1, {"a"}) == "a"


def test_a_lost_replica_leaves_at_once_and_returns_after_a_growing_back_off():
    view, world = view_of("a", "b", back_off_s=1.0, max_back_off_s=3.0)
    for back_off in (1.0, 2.0, 3.0, 3.0):
        view.mark_unavailable("a")
        view.mark_unavailable("a")
        assert view.available == ["b"]
        view.set_replicas(["a", "b"])
        world.advance(back_off - 0.1)
        assert view.available == ["b"]
        world.advance(0.1)
        assert sorted(view.available) == ["a", "b"]
    view.release(str(view.try_acquire(0, 1, {"b"})), 0, 1, reply())
    view.mark_unavailable("a")
    world.advance(1.0)
    assert sorted(view.available) == ["a", "b"], "a reply makes it trusted again"
    view.mark_unavailable("nobody")


def test_a_replica_no_longer_listed_may_still_reply():
    view, _ = view_of("a", slots_per_class=1)
    assert view.try_acquire(0, 5) == "a"
    view.set_replicas([])
    assert view.try_acquire(1, 5) is None
    view.set_replicas(["a"])
    assert view.try_acquire(0, 5) is None, "its slot is still taken"
    view.set_replicas([])
    view.release("a", 0, 5, reply())
    assert view._replicas == {}


def test_a_replica_removed_while_out_does_not_come_back():
    view, world = view_of("a")
    view.mark_unavailable("a")
    view.set_replicas([])
    world.advance(10)
    assert view.available == []
    assert view.try_acquire(0, 1) is None


def test_whoever_waits_for_a_slot_is_told():
    view, world = view_of("a")
    told: list[list[str]] = []
    view.subscribe(lambda: told.append(view.available))
    view.set_replicas(["a", "b"])
    view.release(str(view.try_acquire(0, 1)), 0, 1, None)
    view.mark_unavailable("a")
    world.advance(1)
    assert [sorted(names) for names in told] == [["a", "b"]] * 3
