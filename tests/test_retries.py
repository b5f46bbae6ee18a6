"""Who is sent again together with whom."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.cluster.retries import RetryQueue, grouped
from serve_app.cluster.ticket import Request, Ticket


@pytest.fixture
async def request_() -> Request:
    return Request(1, 2, 0.0, 1.0, asyncio.get_running_loop().create_future())


def tickets_of(request: Request, *deaths: int) -> list[Ticket]:
    made = []
    for row, n in enumerate(deaths):
        ticket = Ticket(10 + row, 0, 1.0, float(row), row, row, np.zeros(10 + row, np.int32), request)
        ticket.lost_on = tuple("abc"[:n])
        made.append(ticket)
    return made


@pytest.mark.parametrize(
    ("deaths", "sizes"),
    [
        ([0] * 9, [9]),
        ([1] * 9, [3, 3, 3]),
        ([1] * 10, [4, 4, 2]),
        ([1], [1]),
        ([1, 1], [2]),
        ([2] * 3, [1, 1, 1]),
        ([2, 0, 1, 0, 1, 1, 1, 1], [2, 3, 2, 1]),
    ],
)
async def test_groups_are_of_the_root_after_one_death_and_single_after_two(
    request_: Request, deaths: list[int], sizes: list[int]
) -> None:
    groups = grouped(4, tickets_of(request_, *deaths), charged=True)
    assert [len(group.tickets) for group in groups] == sizes
    for group in groups:
        died = {len(ticket.lost_on) for ticket in group.tickets}
        assert died == {group.deaths}
        assert (group.suspect, group.alone) == (group.deaths > 0, group.deaths > 1)
        assert group.avoid == frozenset("abc"[: group.deaths])
        assert group.tokens == sum(ticket.tokens for ticket in group.tickets)


async def test_a_queue_counts_what_waits(request_: Request) -> None:
    queue, tickets = RetryQueue(), tickets_of(request_, 0, 0, 0, 1)
    queue.add(grouped(0, tickets, charged=False))
    assert (len(queue), queue.tokens) == (2, 10 + 11 + 12 + 13)
    assert queue.discard(tickets[1])
    assert not queue.discard(tickets[1])
    first, second = queue
    assert ([ticket.row for ticket in first.tickets], queue.tokens) == ([0, 2], 10 + 12 + 13)
    assert queue.discard(tickets[3])
    assert [*queue] == [first], "a group goes with its last ticket"
    queue.remove(first)
    assert (len(queue), queue.tokens, tickets[0].group, second.tickets) == (0, 0, None, [])
