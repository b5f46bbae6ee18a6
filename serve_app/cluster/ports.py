"""What the dispatcher needs of the outside: a view of the replicas, and a way to reach them."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serve_app.errors import EmbedserveError
from serve_app.types import ChunkReply, Envelope, Ping, ReplicaStatus


class ReplicaLostError(EmbedserveError):
    """The replica died with the chunk; whether it had computed it is unknown, and doesn't matter. It may have died of it."""


class ReplicaRefusedError(EmbedserveError):
    """The replica didn't take the chunk: it is stopping, gone already or can't be reached. Nobody died of the chunk."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work ahead of a request that arrives now, in tokens, as far as this gateway knows.

    `queued_tokens` wait in this gateway; `cluster_tokens` are those, what other gateways hold back, and what waits or runs at the
    replicas; `tokens_per_second` is the sum of the rates that the `replicas` available now have measured, 0 if unknown.
    """

    queued_tokens: int = 0
    cluster_tokens: int = 0
    tokens_per_second: float = 0.0
    replicas: int = 0


class ReplicaView(Protocol):
    """Which replicas there are and how busy. A `lane` is a length class and priority, see `engine.queue`."""

    def try_acquire(self, lane: int, tokens: int, exclude: Set[str], /) -> str | None:
        """Take a slot for a chunk at the replica with the fewest outstanding tokens; None if none is free.

        Replicas in `exclude` are passed over as long as there are others, be they busy.
        """

    def release(self, replica: str, lane: int, tokens: int, status: ReplicaStatus | None, /) -> None:
        """Give the slot back, with what the replica said of itself, if it answered."""

    def mark_unavailable(self, replica: str, /) -> None:
        """Take a lost replica out of the rotation at once."""

    def subscribe(self, callback: Callable[[], None], /) -> None:
        """Call back whenever a slot or a replica may have become free."""


class Transport(Protocol):
    """Carries messages to replicas.

    A replica that can't take one now shows by `ReplicaRefusedError`, `StaleReplicaError`, `ReplicaOccupiedError` or
    `EngineDeadError`: nothing was computed.
    """

    async def send(self, replica: str, envelope: Envelope, /) -> ChunkReply:
        """One RPC. Raises `ReplicaLostError` for a replica that died meanwhile; errors not named above fail the inputs."""

    async def cancel(self, replica: str, gateway: str, ids: npt.NDArray[np.uint64], /) -> None:
        """Ask a replica to drop inputs that it hasn't started."""

    async def ping(self, replica: str, ping: Ping, /) -> ReplicaStatus:
        """The status of this replica and no other. Raises as `send` does."""

    async def wake(self, ping: Ping, /) -> ReplicaStatus:
        """The status of any replica, as soon as there is one: a call that waits is what makes a sleeping pool start."""
