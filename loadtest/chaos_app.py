"""The product's application but for one thing: an input whose replica died is not sent again. The chaos suite must notice."""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate its arguments.

from typing import Any

from ray import serve

from serve_app.cluster import gateway, graph
from serve_app.cluster.ports import ReplicaLostError
from serve_app.cluster.transport import HandleTransport
from serve_app.config import Settings
from serve_app.errors import UnavailableError
from serve_app.types import ChunkReply, Envelope


class OnceTransport(HandleTransport):
    """Makes the loss of a replica the request's error, which the dispatcher hands on, in place of its own, which it absorbs."""

    async def send(self, replica: str, envelope: Envelope) -> ChunkReply:
        try:
            return await super().send(replica, envelope)
        except ReplicaLostError as error:
            raise UnavailableError("The replica died, and nothing is sent twice.") from error


class GatewayWithoutRetries(gateway.Gateway):  # type: ignore[misc]
    async def __init__(self, *args: Any) -> None:
        gateway.HandleTransport = OnceTransport  # type: ignore[misc]  # in the process of this replica
        await super().__init__(*args)


def build(settings: Settings) -> serve.Application:
    """As `serve_app:build`."""
    graph.Gateway = GatewayWithoutRetries  # type: ignore[misc]
    return graph.application(settings)
