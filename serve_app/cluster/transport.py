"""The dispatcher's RPCs over a Serve handle."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve_app.cluster.ports import ReplicaLostError, ReplicaRefusedError
from serve_app.errors import UnavailableError
from serve_app.types import ChunkReply, Envelope, Ping, ReplicaStatus

# How a replica shows that it died with a call it had accepted (Serve itself sends again what wasn't accepted yet): over actor
# calls, and over gRPC, where Serve makes UNAVAILABLE an `ActorUnavailableError`.
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError, GetTimeoutError)

MESSAGE_LIMIT = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"

logger = logging.getLogger(__name__)


class HandleTransport:
    """Carries envelopes to the replicas of one deployment; `PinnedRouter` takes each to the replica named beside it.

    `replied_at` is when any of them last answered, in monotonic seconds.
    """

    def __init__(self, embedder: DeploymentHandle[Any]) -> None:
        self.replied_at = -math.inf
        # Envelope and reply are plain data: cloudpickle would only be slower.
        self._embed = embedder.options(
            method_name="embed", request_serialization="pickle", response_serialization="pickle"
        )
        self._cancel = embedder.options(method_name="cancel")
        self._ping = embedder.options(method_name="ping")

    async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
        """One chunk to one replica.

        Raises `ReplicaLostError` if it died meanwhile, `ReplicaRefusedError` if it didn't take the chunk, what it raised itself, and
        `UnavailableError` if there's no deployment.
        """
        reply: ChunkReply = await self._answer(self._embed.remote(envelope, replica))
        return reply

    async def cancel(self, replica: str, gateway: str, ids: npt.NDArray[np.uint64]) -> None:
        """Ask a replica to drop inputs it hasn't started. Raises as `send` does; a replica that is gone has dropped them."""
        await self._answer(self._cancel.remote((gateway, ids), replica))

    async def ping(self, replica: str, ping: Ping) -> ReplicaStatus:
        """The status of this replica. Raises as `send` does."""
        status: ReplicaStatus = await self._answer(self._ping.remote(ping, replica))
        return status

    async def wake(self, ping: Ping | None = None) -> ReplicaStatus:
        """The status of any replica, as soon as there is one; without `ping`, whatever it serves. Raises as `send` does."""
        status: ReplicaStatus = await self._answer(self._ping.remote(ping))
        return status

    async def _answer(self, response: Awaitable[Any]) -> Any:
        try:
            answer = await response
        except LOST as error:
            raise ReplicaLostError(type(error).__name__) from error
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                # The replica is well; the message was over the limit.
                logger.error("A message was over gRPC's limit: set %s on every node", MESSAGE_LIMIT)
                raise
            if error.code() is grpc.StatusCode.CANCELLED:
                raise ReplicaRefusedError("cancelled at the replica") from error
            raise ReplicaLostError(str(error.code())) from error
        except RequestCancelledError as error:
            raise ReplicaRefusedError("cancelled at the replica") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled us: the call was cancelled at the other end, which is how a replica stops.
            raise ReplicaRefusedError("cancelled at the replica") from error
        except DeploymentUnavailableError as error:
            raise UnavailableError(
                "The model's deployment failed; its operator finds the reason in `serve status`."
            ) from error
        self.replied_at = time.monotonic()
        return answer
