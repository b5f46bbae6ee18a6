"""Requests that nobody will compute are told so: those that come, and those that waited while there was hope."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from serve_app.cluster.outlook import LOOK_SECONDS, Outlook
from serve_app.errors import DeadlineExceededError, UnavailableError
from serve_app.types import Ping, Priority, ReplicaStatus
from tests import virtual_time
from tests.dispatching import Gateway, reply_to, tokens


class Hope:
    """What is known of starting replicas."""

    def __init__(self, why: str | None = None) -> None:
        self.why = why
        self.asked = 0

    async def hopeless(self) -> str | None:
        self.asked += 1
        await asyncio.sleep(0.1)
        return self.why


def asked(outlook: Outlook, deadline: float = math.inf) -> Coroutine[Any, Any, Any]:
    return outlook.embed([tokens(3, 1)], priority=Priority.INTERACTIVE, deadline=deadline)


def run(main: Any) -> None:
    virtual_time.run(main())


def test_where_nobody_will_come_requests_are_refused_at_once_with_the_reason() -> None:
    async def main() -> None:
        gateway = Gateway()
        outlook = Outlook(gateway.dispatcher, gateway.view, Hope("the model fails its self-check").hopeless)
        for call in (asked(outlook), outlook.embed_all([tokens(3, 1)], priority=Priority.BULK, deadline=math.inf)):
            with pytest.raises(UnavailableError) as caught:
                await call
            assert caught.value.message.startswith("No replica can serve the model: the model fails its self-check. ")
            assert (caught.value.status, caught.value.retry_after) == (503, None)
        assert gateway.loop.time() == pytest.approx(0.2)
        assert gateway.dispatcher.queued_inputs == 0
        await gateway.dispatcher.close()

    run(main)


def test_a_replica_that_serves_is_enough_and_serve_isn_t_asked() -> None:
    async def main() -> None:
        gateway, hope = Gateway("a"), Hope("why")
        outlook = Outlook(gateway.dispatcher, gateway.view, hope.hopeless)
        assert (await asked(outlook)).vectors.shape == (1, 3)
        gateway.view.set_replicas([], leaving=["a"])  # a redeploy: it still computes what there is
        assert (await asked(outlook)).vectors.shape == (1, 3)
        gateway.view.set_replicas(["b"])
        gateway.view.mark_unavailable("b")  # lost or silent: it may come back
        with pytest.raises(DeadlineExceededError):
            await asked(outlook, deadline=gateway.loop.time() + 0.01)
        assert hope.asked == 0
        await gateway.dispatcher.close()

    run(main)


def test_one_that_may_come_is_waited_for() -> None:
    async def main() -> None:
        gateway = Gateway()
        outlook = Outlook(gateway.dispatcher, gateway.view, Hope().hopeless)
        keeping = asyncio.create_task(outlook.keep())
        waiting = asyncio.create_task(asked(outlook))
        await asyncio.sleep(60)
        gateway.view.set_replicas(["a"])
        assert (await waiting).vectors.shape == (1, 3)
        keeping.cancel()
        await gateway.dispatcher.close()

    run(main)


def test_a_replica_that_comes_while_serve_is_asked_computes() -> None:
    async def main() -> None:
        gateway = Gateway()
        outlook = Outlook(gateway.dispatcher, gateway.view, Hope("old news").hopeless)
        asyncio.get_running_loop().call_later(0.05, gateway.view.set_replicas, ["a"])
        assert (await asked(outlook)).vectors.shape == (1, 3)
        await gateway.dispatcher.close()

    run(main)


def test_what_waits_is_given_up_when_hope_goes() -> None:
    async def main() -> None:
        gateway, hope = Gateway(), Hope()
        outlook = Outlook(gateway.dispatcher, gateway.view, hope.hopeless)
        keeping = asyncio.create_task(outlook.keep())
        waiting = [asyncio.create_task(asked(outlook, deadline)) for deadline in (math.inf, 300.0)]
        await asyncio.sleep(10)
        assert not any(task.done() for task in waiting)
        hope.why = "why"
        await asyncio.sleep(LOOK_SECONDS + 0.2)
        for task in waiting:
            with pytest.raises(UnavailableError, match="why"):
                task.result()
        before = hope.asked
        await asyncio.sleep(10)
        assert hope.asked == before  # nothing waits
        keeping.cancel()
        await gateway.dispatcher.close()

    run(main)


def test_what_a_leaving_replica_still_has_is_not_given_up() -> None:
    async def main() -> None:
        async def slowly(replica: str, envelope: Any) -> Any:
            await asyncio.sleep(20)
            return reply_to(replica, envelope)

        gateway = Gateway("a", behave=slowly)
        outlook = Outlook(gateway.dispatcher, gateway.view, Hope("why").hopeless)
        keeping = asyncio.create_task(outlook.keep())
        first = asyncio.create_task(asked(outlook))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(asked(outlook))
        await asyncio.sleep(0.1)
        gateway.view.set_replicas([])
        assert (await first).vectors.shape == (1, 3)
        with pytest.raises(UnavailableError, match="why"):
            await second
        keeping.cancel()
        await gateway.dispatcher.close()

    run(main)


def test_where_serve_has_given_the_deployment_up_nobody_waits_not_even_for_a_sleeping_pool() -> None:
    class GivenUp:
        async def wake(self, ping: Ping) -> ReplicaStatus:
            raise UnavailableError("The model's deployment failed.")

    async def main() -> None:
        gateway = Gateway(transport=GivenUp())  # type: ignore[arg-type]
        with pytest.raises(UnavailableError, match="deployment failed"):
            await gateway.dispatcher.embed([tokens(3, 1)], deadline=100.0)
        assert gateway.loop.time() < 1.0
        await gateway.dispatcher.close()

    run(main)
