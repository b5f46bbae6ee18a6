"""One chunk's walk through a replica: envelope in, reply out."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

from serve_app.engine.batcher import Batcher
from serve_app.errors import StaleReplicaError
from serve_app.types import ENVELOPE_VERSION, ChunkReply, Envelope, ReplicaStatus


async def embed_chunk(batcher: Batcher, replica: str, model: str, envelope: Envelope) -> ChunkReply:
    """Vectors for every input of a chunk, in its order, or that input's error.

    `model` is the fingerprint of what this replica serves. Raises `StaleReplicaError` for an envelope of another version or model,
    `EngineDeadError` if this replica can't compute.
    """
    if (envelope.version, envelope.model) != (ENVELOPE_VERSION, model):
        raise StaleReplicaError(f"replica {replica} serves another version of the application or another model")
    ends = np.cumsum(envelope.lengths).tolist()
    encoded = await batcher.submit(
        [envelope.token_ids[start:end] for start, end in pairwise([0, *ends])],
        gateway=envelope.gateway,
        ids=envelope.ids.tolist(),
        priorities=envelope.priority.tolist(),
        deadlines=(time.monotonic() + envelope.time_left.astype(np.float64)).tolist(),
    )
    return ChunkReply(
        ReplicaStatus(replica, batcher.outstanding_tokens, batcher.tokens_per_second),
        encoded.vectors,
        encoded.errors,
        encoded.queue_seconds,
        encoded.inference_seconds,
    )
