"""A replica's side of the wire: envelopes, pings and cancellations in, replies out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise, repeat

import numpy as np

from serve_app.cluster.backlog import GatewayBacklogs
from serve_app.engine.batcher import Batcher
from serve_app.errors import EngineDeadError, ReplicaOccupiedError, StaleReplicaError
from serve_app.types import ENVELOPE_VERSION, ChunkReply, Envelope, Ping, ReplicaStatus


class ChunkServer:
    """Answers the gateways for one replica. `model` is the fingerprint of what it serves; `backlogs` what it has heard that
    they hold back.

    A chunk that is to be alone was there when replicas died: one such at a time, whoever sends it, so that one culprit doesn't
    condemn its companions. (Work that is not suspected goes on beside it; a second culprit in that could.)
    """

    def __init__(self, batcher: Batcher, replica: str, model: str, backlogs: GatewayBacklogs | None = None) -> None:
        self.backlogs = backlogs or GatewayBacklogs()
        self._batcher = batcher
        self._replica = replica
        self._model = model
        self._occupied = False

    async def embed(self, envelope: Envelope) -> ChunkReply:
        """Vectors for every input of a chunk, in its order, or that input's error.

        Raises `StaleReplicaError` for an envelope of another version or model, `ReplicaOccupiedError` for a chunk that is to be
        alone beside another such, `EngineDeadError` if this replica can't compute: nothing was computed then.
        """
        self._check(envelope)
        if not envelope.alone:
            return await self._embed(envelope)
        if self._occupied:
            raise ReplicaOccupiedError(f"replica {self._replica} carries another chunk that is to be alone")
        self._occupied = True
        try:
            return await self._embed(envelope)
        finally:
            self._occupied = False

    def ping(self, ping: Ping | None) -> ReplicaStatus:
        """This replica's status if it can compute, for the one who sent `ping`; None asks for no particular model.

        Raises `StaleReplicaError` and `EngineDeadError` as `embed` does.
        """
        if ping is not None:
            self._check(ping)
        if not self._batcher.healthy:
            raise EngineDeadError("the engine thread is gone")
        return self._status(ping.gateway if ping is not None else None)

    def cancel(self, gateway: str, ids: Iterable[int]) -> None:
        """Drop a gateway's inputs that haven't started."""
        self._batcher.cancel(gateway, ids)

    async def _embed(self, envelope: Envelope) -> ChunkReply:
        ends = np.cumsum(envelope.lengths).tolist()
        encoded = await self._batcher.submit(
            [envelope.token_ids[start:end] for start, end in pairwise([0, *ends])],
            gateway=envelope.gateway,
            ids=envelope.ids.tolist(),
            priorities=envelope.priority.tolist(),
            deadlines=(time.monotonic() + envelope.time_left.astype(np.float64)).tolist(),
            outputs=envelope.output.tolist(),
            tenants=repeat(0) if envelope.tenants is None else envelope.tenants.tolist(),
        )
        return ChunkReply(
            self._status(envelope.gateway),
            encoded.vectors,
            encoded.errors,
            encoded.queue_seconds,
            encoded.inference_seconds,
            encoded.token_vectors,
        )

    def _check(self, message: Envelope | Ping) -> None:
        if (message.version, message.model) != (ENVELOPE_VERSION, self._model):
            raise StaleReplicaError(
                f"replica {self._replica} serves another version of the application or another model"
            )
        self.backlogs.hear(message.gateway, message.gateway_queued_tokens)

    def _status(self, asker: str | None) -> ReplicaStatus:
        batcher = self._batcher
        return ReplicaStatus(
            self._replica, batcher.outstanding_tokens, batcher.tokens_per_second, self.backlogs.total(but=asker)
        )
