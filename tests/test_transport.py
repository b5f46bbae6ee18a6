"""What the outcome of a Serve call means to the dispatcher."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from ray.exceptions import ActorUnavailableError, ObjectLostError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError

from serve_app.cluster.ports import ReplicaLostError, ReplicaRefusedError
from serve_app.cluster.transport import HandleTransport
from serve_app.errors import EngineDeadError, ReplicaOccupiedError, StaleReplicaError, UnavailableError
from serve_app.types import Ping, ReplicaStatus


class Handle:
    """As much of a Serve handle as the transport uses; every call ends in `outcome`."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.calls: list[tuple[Any, ...]] = []

    def options(self, method_name: str, **serialization: str) -> Handle:
        return self

    async def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return await self.outcome() if callable(self.outcome) else self.outcome


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("gone", b"x" * 16),
        WorkerCrashedError(),
        ObjectLostError("00", None, "lost"),
        rpc_error(grpc.StatusCode.INTERNAL),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_replica_that_died_with_a_call(error: BaseException) -> None:
    transport = HandleTransport(Handle(error))
    with pytest.raises(ReplicaLostError):
        await transport.ping("r", Ping("g"))
    assert transport.replied_at == float("-inf")


@pytest.mark.parametrize(
    "error",
    [
        RequestCancelledError(),
        rpc_error(grpc.StatusCode.CANCELLED),
        asyncio.CancelledError(),
        ReplicaRefusedError("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_replica_that_did_not_take_the_call(error: BaseException) -> None:
    with pytest.raises(ReplicaRefusedError):
        await HandleTransport(Handle(error)).ping("r", Ping("g"))


@pytest.mark.parametrize(
    "error", [StaleReplicaError("another model"), ReplicaOccupiedError("busy"), EngineDeadError("gone")]
)
async def test_what_a_replica_raises_itself_arrives_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)):
        await HandleTransport(Handle(error)).ping("r", Ping("g"))


async def test_an_answer_is_remembered() -> None:
    handle = Handle(ReplicaStatus("r"))
    transport = HandleTransport(handle)
    assert (await transport.ping("r", Ping("g"))).replica == "r"
    assert transport.replied_at > 0
    await transport.wake()
    assert handle.calls == [(Ping("g"), "r"), (None,)], "only one of them names a replica"


async def test_our_own_cancellation_stays_one() -> None:
    task = asyncio.create_task(HandleTransport(Handle(asyncio.Event().wait)).wake())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_failed_deployment_is_unavailable() -> None:
    from ray.serve._private.common import DeploymentID

    with pytest.raises(UnavailableError, match="serve status"):
        await HandleTransport(Handle(DeploymentUnavailableError(DeploymentID("Embedder", "app")))).wake()


async def test_a_message_over_the_limit_is_not_the_replicas_fault(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await HandleTransport(Handle(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED))).wake()
