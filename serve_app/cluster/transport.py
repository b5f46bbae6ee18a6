"""The dispatcher's RPCs over a Serve handle."""

from __future__ import annotations

import math
import time
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve_app.cluster.ports import ReplicaLostError
from serve_app.errors import UnavailableError
from serve_app.types import ChunkReply, Envelope

# How a replica that died, is dying or can't be reached shows itself, over actor calls and over gRPC.
LOST = (RayActorError, NodeDiedError, OutOfMemoryError, GetTimeoutError, RequestCancelledError, grpc.aio.AioRpcError)


class HandleTransport:
    """Carries envelopes to the replicas of one deployment; `PinnedRouter` takes each to the replica named beside it.

    `replied_at` is when any of them last answered, in monotonic seconds.
    """

    def __init__(self, embedder: DeploymentHandle[Any]) -> None:
        self.replied_at = -math.inf
        self._embed = embedder.options(method_name="embed")
        self._cancel = embedder.options(method_name="cancel")
        self._ping = embedder.options(method_name="ping")

    async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
        """One chunk to one replica. Raises `ReplicaLostError` if it didn't answer, `UnavailableError` if there's no deployment."""
        try:
            reply: ChunkReply = await self._embed.remote(envelope, replica)
        except LOST as error:
            raise ReplicaLostError(f"{replica}: {type(error).__name__}") from error
        except DeploymentUnavailableError as error:
            raise UnavailableError(
                "The model's deployment failed; its operator finds the reason in `serve status`."
            ) from error
        self.replied_at = time.monotonic()
        return reply

    async def cancel(self, replica: str, gateway: str, ids: npt.NDArray[np.uint64]) -> None:
        """Ask a replica to drop inputs it hasn't started. A replica that is gone has dropped them."""
        try:
            await self._cancel.remote((gateway, ids), replica)
        except LOST:
            return

    async def ping(self) -> None:
        """Return once any replica has answered. Raises `ReplicaLostError` or `UnavailableError` like `send`."""
        try:
            await self._ping.remote()
            self.replied_at = time.monotonic()
        except LOST as error:
            raise ReplicaLostError(type(error).__name__) from error
        except DeploymentUnavailableError as error:
            raise UnavailableError(
                "The model's deployment failed; its operator finds the reason in `serve status`."
            ) from error
