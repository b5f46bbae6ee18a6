"""The gateway's view of the replicas."""

from __future__ import annotations

from random import Random

from serve_app.cluster.replicas import ReplicaSet
from serve_app.types import ReplicaStatus


class World:
    """A clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


def view_of(*names: str, slots_per_class: int = 2) -> tuple[ReplicaSet, World]:
    world = World()
    view = ReplicaSet(slots_per_class=slots_per_class, clock=lambda: world.now)
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


def test_forbidden_replicas_are_never_used():
    view, _ = view_of("a", "b", slots_per_class=1)
    assert view.try_acquire(0, 1, frozenset(), {"a"}) == "b"
    assert view.try_acquire(0, 1, frozenset(), {"a", "b"}) is None
    assert view.try_acquire(0, 1, {"a"}, {"b"}) == "a", "to be avoided, but the only one allowed"


def test_a_lost_replica_leaves_at_once_and_stays_out_until_it_is_let_back_in():
    view, world = view_of("a", "b")
    view.mark_unavailable("a")
    assert (view.available, view.down, view.is_down("a"), view.is_available("a")) == (["b"], ["a"], True, False)
    world.advance(1000)
    view.set_replicas(["a", "b"])
    assert view.available == ["b"]
    assert sorted(view.listed) == ["a", "b"]
    view.mark_available("a")
    assert (sorted(view.available), view.down) == (["a", "b"], [])
    view.mark_unavailable("nobody")
    view.mark_available("nobody")
    assert not view.is_listed("nobody")


def test_what_a_replica_should_take_follows_from_its_own_rate_or_the_others():
    view, _ = view_of("a", "b")
    assert view.tokens_per_second == 0.0
    assert [view.try_acquire(0, 30), view.try_acquire(0, 30)] == ["a", "b"]
    assert view.expected_seconds("a") is None
    view.hear("b", reply(outstanding=50, rate=10.0))
    view.hear("nobody", reply())
    assert view.expected_seconds("b") == 5.0
    assert view.expected_seconds("a") == 3.0
    assert view.tokens_per_second == 20.0, "who hasn't measured yet is taken as the mean"


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
    view, _ = view_of("a")
    view.mark_unavailable("a")
    view.set_replicas([])
    view.mark_available("a")
    assert view.available == []
    assert view.try_acquire(0, 1) is None


def test_whoever_waits_for_a_slot_is_told():
    view, _ = view_of("a")
    told: list[list[str]] = []
    view.subscribe(lambda: told.append(view.available))
    view.set_replicas(["a", "b"])
    view.release(str(view.try_acquire(0, 1)), 0, 1, None)
    view.mark_unavailable("a")
    view.mark_available("a")
    assert [sorted(names) for names in told] == [["a", "b"]] * 3


def test_a_leaving_replica_works_only_while_there_is_no_other():
    view, _ = view_of("a", "b")
    view.set_replicas(["b"], leaving=["a"])
    assert view.available == ["b"]
    view.set_replicas([], leaving=["a", "b"])
    assert sorted(view.available) == ["a", "b"]
    assert view.listed == []
    view.set_replicas(["new"], leaving=["a", "b"])
    assert view.available == ["new"]
    view.mark_unavailable("new")  # it serves another model
    assert sorted(view.available) == ["a", "b"]
    view.mark_unavailable("a")
    assert view.available == ["b"]
    assert view.try_acquire(0, 5) == "b"
    view.set_replicas(["new"])
    assert view.available == []
    view.release("b", 0, 5, reply())
    view.mark_available("new")
    assert view.available == ["new"]
    assert view.down == []


def test_a_leaving_replica_never_heard_of_is_nobody():
    view, _ = view_of()
    view.set_replicas([], leaving=["a"])
    assert view.available == []


def test_what_was_heard_fades_into_what_others_say():
    view, world = view_of("idle", "busy", slots_per_class=100)
    for _ in range(200):  # other gateways keep both replicas at a thousand tokens
        for _ in range(2):
            name = view.try_acquire(0, 1)
            assert name is not None
            view.release(name, 0, 1, reply(outstanding=1000))
    chosen = {view.try_acquire(0, 1), view.try_acquire(0, 1)}
    assert chosen == {"idle", "busy"}
    view.release("idle", 0, 1, reply(outstanding=0))
    assert view.try_acquire(0, 300) == "idle", "just heard that it has nothing to do"
    view.release("idle", 0, 300, None)
    view.release("busy", 0, 1, reply(outstanding=1000))
    world.advance(60)
    view.hear("busy", reply(outstanding=400))
    assert view.try_acquire(0, 1) == "busy", (
        "the other's news is a minute old: by now it has as much as any, about a thousand"
    )


def test_news_of_one_replica_by_one_gateway_decides_alone():
    view, world = view_of("a", "b")
    assert view.try_acquire(0, 50) == "a"
    world.advance(60)
    assert view.try_acquire(0, 60) == "b"
    assert view.try_acquire(0, 1) == "a", "nobody else sends anything, so what this gateway sent is all there is"


def test_new_replicas_are_ordered_by_chance_so_that_gateways_differ():
    orders = []
    for seed in range(8):
        view = ReplicaSet(shuffle=Random(seed).shuffle)
        view.set_replicas(["a", "b", "c", "d"])
        orders.append([view.try_acquire(0, 0) for _ in range(4)])
    assert all(sorted(map(str, order)) == ["a", "b", "c", "d"] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
