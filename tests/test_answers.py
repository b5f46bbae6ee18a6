"""Inputs that were answered before, or are on their way: sent once, each request answered on its own terms."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cluster.answers import SMALL_TOKENS, Answers
from serve_app.cluster.ports import Backlog
from serve_app.cluster.tenants import number_of
from serve_app.cluster.ticket import Embedded
from serve_app.errors import CrashingInputError, DeadlineExceededError, InternalError
from serve_app.types import Priority, TokenIds
from tests.dispatching import HIDDEN, tokens, vectors
from tests.virtual_time import run

PLENTY = 2**20


@dataclass
class Source:
    """Answers in a second, or as `outcomes` says, one after the other: seconds, or an error after one."""

    outcomes: list[Exception | float] = field(default_factory=list)
    sent: list[list[int]] = field(default_factory=list)
    computing: Counter[bytes] = field(default_factory=Counter)
    most: int = 0
    tenants: list[int] = field(default_factory=list)

    def backlog(self) -> Backlog:
        return Backlog(queued_tokens=7)

    async def embed(
        self, token_ids: list[TokenIds], *, priority: Priority, deadline: float, tenant: int = 0
    ) -> Embedded:
        self.tenants.append(tenant)
        self.sent.append([int(ids[0]) for ids in token_ids])
        keys = [ids.tobytes() for ids in token_ids]
        self.computing.update(keys)
        self.most = max(self.most, *self.computing.values())
        outcome = self.outcomes.pop(0) if self.outcomes else 1.0
        try:
            seconds = 1.0 if isinstance(outcome, Exception) else outcome
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(min(seconds, deadline - now))
            if now + seconds > deadline:
                raise DeadlineExceededError("Too late.")
            if isinstance(outcome, Exception):
                raise outcome
        finally:
            self.computing.subtract(keys)
        n = len(token_ids)
        return Embedded(
            np.array(vectors(list(token_ids)), np.float32), np.full(n, 0.25, np.float32), np.full(n, 0.75, np.float32)
        )


class Gateway:
    """`Answers` on the running loop's clock, and what it says of itself."""

    def __init__(self, *outcomes: Exception | float, keep: int = 0, share: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.source = Source(list(outcomes))
        self.kept: list[tuple[int, int]] = []
        self.spared: list[int] = []
        self.answers = Answers(
            self.source,
            model="m",
            hidden_size=HIDDEN,
            share=share,
            on_kept=lambda asked, found: self.kept.append((asked, found)),
            on_spared=self.spared.append,
            clock=self.loop.time,
        )
        self.answers.resize(keep)

    def embed(self, *inputs: tuple[int, int], after: float = 0.0, **options: Any) -> asyncio.Task[Embedded]:
        async def later() -> Embedded:
            await asyncio.sleep(after)
            return await self.answers.embed([tokens(*each) for each in inputs], **options)

        return self.loop.create_task(later())


def right(embedded: Embedded, *inputs: tuple[int, int]) -> bool:
    return embedded.vectors.tolist() == vectors([tokens(*each) for each in inputs])


A, B, C = (3, 1), (4, 2), (5, 3)


def test_what_was_answered_is_kept() -> None:
    async def main() -> None:
        gateway = Gateway(keep=PLENTY)
        assert right(await gateway.embed(A, B), A, B)
        begin = gateway.loop.time()
        again = await gateway.embed(B, A, B)
        assert right(again, B, A, B)
        assert (again.inference_seconds.tolist(), again.queue_seconds.tolist()) == ([0] * 3, [0] * 3)
        assert gateway.loop.time() == begin
        assert right(await gateway.embed(A, C), A, C)
        assert gateway.source.sent == [[1, 2], [3]]
        assert gateway.kept == [(2, 0), (3, 3), (2, 1)]
        assert gateway.spared == [11, 3]
        gateway.answers.resize(0)
        assert gateway.answers.kept_bytes == 0
        await gateway.embed(A)
        assert gateway.source.sent[2:] == [[1]]
        assert len(gateway.kept) == 3

    run(main())


def test_nothing_is_kept_unless_asked_for() -> None:
    async def main() -> None:
        gateway = Gateway()
        for _ in range(2):
            assert right(await gateway.embed(A), A)
        assert gateway.source.sent == [[1], [1]]
        assert (gateway.kept, gateway.spared, gateway.answers.kept_bytes) == ([], [], 0)
        assert gateway.answers.backlog().queued_tokens == 7

    run(main())


@pytest.mark.parametrize(("keep", "share"), [(PLENTY, True), (0, True), (0, False)])
def test_whoever_computes_is_told_the_tenant(keep: int, share: bool) -> None:
    async def main() -> None:
        gateway = Gateway(keep=keep, share=share)
        for tenant in ("", "a", "b", "a"):
            await gateway.embed(A, B, B, tenant=tenant)
        missing = 3 if keep else 4
        assert gateway.source.tenants == [0, number_of("a"), number_of("b"), number_of("a")][:missing]

    run(main())


def test_all_tenants_are_one_where_they_share() -> None:
    async def main() -> None:
        gateway = Gateway(keep=PLENTY)
        gateway.answers.share_between_keys = True
        await asyncio.gather(*(gateway.embed(A, tenant=tenant) for tenant in ("", "a", "b")))
        await gateway.embed(A, B, tenant="c")
        assert (gateway.source.sent, gateway.source.tenants) == ([[1], [2]], [0, 0])
        # And are apart again: what was kept for all is nobody's with a key.
        gateway.answers.share_between_keys = False
        await gateway.embed(A, tenant="a")
        assert gateway.source.tenants == [0, 0, number_of("a")]

    run(main())


def test_the_same_token_ids_are_told_apart_by_tenant_and_length() -> None:
    async def main() -> None:
        gateway = Gateway(keep=PLENTY)
        tasks = [gateway.embed(A, tenant=tenant) for tenant in ("", "a", "b", "a")]
        tasks += [gateway.embed((4, 1)), gateway.embed((2, 1), (1, 1))]
        await asyncio.gather(*tasks)
        assert gateway.source.sent == [[1], [1], [1], [1], [1, 1]]
        # Ids that are a tenant's name and its end, as bytes, before those of another input.
        name = np.frombuffer(b"abc\0", np.int32)
        await gateway.embed(A, tenant="abc")
        await gateway.answers.embed([np.concatenate([name, tokens(*A)])])
        assert gateway.source.sent[5:] == [[1], [int(name[0])]]
        await gateway.embed(A, tenant="abc")
        assert len(gateway.source.sent) == 7

    run(main())


def test_errors_are_not_kept() -> None:
    async def main() -> None:
        gateway = Gateway(InternalError(), keep=PLENTY)
        with pytest.raises(InternalError):
            await gateway.embed(A)
        assert gateway.answers.kept_bytes == 0
        assert right(await gateway.embed(A), A)
        assert gateway.source.sent == [[1], [1]]

    run(main())


def test_inputs_on_their_way_are_not_sent_again() -> None:
    async def main() -> None:
        gateway = Gateway()
        first, second = gateway.embed(A, B), gateway.embed(B, C, B, after=0.4)
        assert right(await first, A, B)
        other = await second
        assert right(other, B, C, B)
        assert gateway.loop.time() == pytest.approx(1.4)
        assert gateway.source.sent == [[1, 2], [3]]
        assert gateway.spared == [8]
        # It waited for C for a second, of which C ran for 0.75, and B ran for no longer than the request had been there.
        assert other.inference_seconds.tolist() == pytest.approx([0.75] * 3)
        # With sharing off everything goes.
        gateway.answers.share = False
        await asyncio.gather(gateway.embed(A, A), gateway.embed(A))
        assert gateway.source.sent[2:] == [[1, 1], [1]]

    run(main())


def test_who_waited_was_not_computed_for_longer_than_that() -> None:
    async def main() -> None:
        gateway = Gateway()
        _, late = gateway.embed(A), gateway.embed(A, after=0.9)
        embedded = await late
        assert gateway.loop.time() == pytest.approx(1.0)
        assert embedded.inference_seconds.tolist() == pytest.approx([0.1])
        assert embedded.queue_seconds.tolist() == pytest.approx([0.0], abs=1e-6)

    run(main())


@pytest.mark.parametrize("how", ["cancelled", "late", "failed"])
def test_what_fails_with_the_request_that_sent_it_is_sent_again(how: str) -> None:
    async def main() -> None:
        gateway = Gateway(*([InternalError()] if how == "failed" else []))
        first = gateway.embed(A, deadline=0.5 if how == "late" else math.inf)
        others = [gateway.embed(A, after=0.1) for _ in range(3)]
        await asyncio.sleep(0.2)
        if how == "cancelled":
            first.cancel()
        result = (await asyncio.gather(first, return_exceptions=True))[0]
        assert isinstance(
            result, {"cancelled": asyncio.CancelledError, "late": DeadlineExceededError, "failed": InternalError}[how]
        )
        for other in others:
            assert right(await other, A)
        assert gateway.source.sent == [[1], [1]], "the others share one"

    run(main())


def test_whoever_waits_keeps_its_own_deadline_and_leaves_alone() -> None:
    async def main() -> None:
        gateway = Gateway(10.0)
        first = gateway.embed(A)
        late, gone, last = gateway.embed(A, deadline=2.0), gateway.embed(A), gateway.embed(A)
        await asyncio.sleep(1.0)
        gone.cancel()
        with pytest.raises(DeadlineExceededError):
            await late
        assert gateway.loop.time() == pytest.approx(2.0)
        assert right(await first, A)
        assert right(await last, A)
        assert gateway.source.sent == [[1]]

    run(main())


def test_nobody_waits_for_less_urgent_or_larger_requests() -> None:
    async def main() -> None:
        large = (SMALL_TOKENS, 9)
        gateway = Gateway()
        tasks = [
            gateway.embed(A, priority=Priority.BULK),
            gateway.embed(A),
            gateway.embed(A, priority=Priority.BULK),
            gateway.embed(B, large),
            gateway.embed(B),
            gateway.embed(large, B),
        ]
        for embedded, inputs in zip(tasks, [[A], [A], [A], [B, large], [B], [large, B]], strict=True):
            assert right(await embedded, *inputs)
        assert gateway.source.sent == [[1], [1], [2, 9], [2]]
        assert not gateway.answers._sent

    run(main())


def test_an_input_that_crashes_replicas_is_not_sent_for_those_who_wait() -> None:
    async def main() -> None:
        gateway = Gateway(CrashingInputError(0))
        tasks = [gateway.embed(A), gateway.embed(B, A, after=0.5), gateway.embed(B, A, after=0.5)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(error, "row", None) for error in found] == [0, 1, 1]
        assert gateway.source.sent == [[1], [2]]

    run(main())


def test_it_is_named_by_its_place_in_the_request() -> None:
    async def main() -> None:
        gateway = Gateway(1.0, CrashingInputError(1), keep=PLENTY)
        await gateway.embed(A)
        with pytest.raises(CrashingInputError, match="Input 4 ") as refused:
            await gateway.embed(A, B, A, B, C)
        assert refused.value.row == 4
        assert gateway.source.sent == [[1], [2, 3]]
        # Which of two it was isn't known to others: they send theirs.
        assert right(await gateway.embed(B), B)

    run(main())


requests = st.tuples(
    st.lists(st.sampled_from([A, B, C, (9, 4)]), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.3, 0.9, 1.7]),  # after
    st.sampled_from([0.5, 1.5, math.inf]),  # patience
    st.sampled_from([None, None, 0.4, 1.1]),  # cancelled after
    st.sampled_from([Priority.INTERACTIVE, Priority.BULK]),
)


@given(
    script=st.lists(requests, min_size=1, max_size=8),
    outcomes=st.lists(st.sampled_from([0.5, 2.0, 1.0, InternalError()]), max_size=8),
    keep=st.sampled_from([0, 500, PLENTY]),
)
@settings(max_examples=100, deadline=None)
def test_whatever_fails_or_leaves_everyone_gets_their_own(
    script: list[tuple[Any, ...]], outcomes: list[Exception | float], keep: int
) -> None:
    async def main() -> None:
        gateway = Gateway(*outcomes, keep=keep)
        tasks = []
        for inputs, after, patience, leaves, priority in script:
            task = gateway.embed(*inputs, after=after, deadline=after + patience, priority=priority)
            tasks.append(task)
            if leaves is not None:
                gateway.loop.call_later(after + leaves, task.cancel)
        for (inputs, _, patience, leaves, _), task in zip(script, tasks, strict=True):
            try:
                assert right(await task, *inputs)
            except asyncio.CancelledError:
                assert leaves is not None
            except DeadlineExceededError:
                assert patience < math.inf
            except InternalError:
                assert any(isinstance(outcome, Exception) for outcome in outcomes)
        if len({priority for *_, priority in script}) == 1:
            assert gateway.source.most <= 1, "sent beside itself"
        assert not gateway.answers._sent
        failed = sum(
            task.done() and not task.cancelled() and isinstance(task.exception(), InternalError) for task in tasks
        )
        used = len(outcomes) - len(gateway.source.outcomes)
        assert failed <= sum(isinstance(outcome, Exception) for outcome in outcomes[:used]), "an error was shared"

    run(main())
