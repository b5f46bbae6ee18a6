"""What the dispatcher needs of the outside, a way to reach the replicas, and what it is to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serve_app.cluster.ticket import Embedded, EmbeddedTokens
from serve_app.errors import EmbedserveError
from serve_app.types import ChunkReply, Envelope, Ping, Priority, ReplicaStatus, TokenIds


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


class Source(Protocol):
    """Where vectors come from: the dispatcher, or what stands in front of it."""

    def backlog(self) -> Backlog:
        """See `Dispatcher.backlog`."""

    async def embed(
        self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float, tenant: int = 0
    ) -> Embedded:
        """See `Dispatcher.embed`."""

    async def embed_all(self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float) -> EmbeddedTokens:
        """See `Dispatcher.embed_all`."""


class TenantSource(Protocol):
    """A source that knows tenants by their names."""

    def backlog(self) -> Backlog:
        """See `Dispatcher.backlog`."""

    async def embed(
        self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float, tenant: str = ""
    ) -> Embedded:
        """See `Answers.embed`."""

    async def embed_all(self, token_ids: Sequence[TokenIds], *, priority: Priority, deadline: float) -> EmbeddedTokens:
        """See `Dispatcher.embed_all`."""
