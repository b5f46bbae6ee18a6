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

from serve_app.cluster.ports import ReplicaLostError
from serve_app.errors import StaleReplicaError, UnavailableError
from serve_app.types import ChunkReply, Envelope

# How a replica that died, is dying or can't be reached shows itself, over actor calls and over gRPC.
LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    GetTimeoutError,
    RequestCancelledError,
    StaleReplicaError,
)


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
        """One chunk to one replica. Raises `ReplicaLostError` if it didn't answer, `UnavailableError` if there's no deployment."""
        reply: ChunkReply = await self._answer(self._embed.remote(envelope, replica))
        return reply

    async def cancel(self, replica: str, gateway: str, ids: npt.NDArray[np.uint64]) -> None:
        """Ask a replica to drop inputs it hasn't started. Raises as `send` does; a replica that is gone has dropped them."""
        await self._answer(self._cancel.remote((gateway, ids), replica))

    async def ping(self) -> None:
        """Return once any replica has answered. Raises as `send` does."""
        await self._answer(self._ping.remote())

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
            raise ReplicaLostError(str(error.code())) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled us: the call was cancelled at the other end.
            raise ReplicaLostError("cancelled at the replica") from error
        except DeploymentUnavailableError as error:
            raise UnavailableError(
                "The model's deployment failed; its operator finds the reason in `serve status`."
            ) from error
        self.replied_at = time.monotonic()
        return answer
