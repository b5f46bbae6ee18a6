"""What gateways and replicas send each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from serve_app.types.request import TokenIds, Vectors

ENVELOPE_VERSION = 4
"""One more whenever a message means something else, or has a field that must not be overlooked."""

# Of what crosses between versions, namely envelopes and pings and the status of a replica, `slots` are left out: so one that has a
# field more, or less, than the reader knows can be unpickled all the same, and be turned away by its `version`.


@dataclass
class Envelope:
    """A chunk on its way from a gateway to a replica: flat arrays, one entry per input.

    `token_ids` is the concatenation of all inputs, int32 `[sum(lengths)]`; `lengths` int32 `[n]`; `ids` uint64 `[n]`,
    unique within the gateway; `time_left` float32 `[n]`, seconds until the input's deadline counted from sending (clocks of
    two hosts differ, so no wall time travels), infinity for none; `priority` and `output` uint8 `[n]`.
    `model` is the fingerprint of the model whose tokenizer made the ids: during a rolling update replicas of two models can run.
    `gateway_queued_tokens` is what this gateway still holds back. `alone` asks for a replica that carries no other such chunk:
    its input was there when replicas died. `adapter` is reserved. `tenants` is uint64 `[n]`: equal for inputs of the same API key, 0
    for those without one, None where all are 0. How long an input takes mustn't depend on what other tenants have sent.
    """

    gateway: str
    ids: npt.NDArray[np.uint64]
    token_ids: TokenIds
    lengths: npt.NDArray[np.int32]
    time_left: npt.NDArray[np.float32]
    priority: npt.NDArray[np.uint8]
    output: npt.NDArray[np.uint8]
    model: str = ""
    gateway_queued_tokens: int = 0
    alone: bool = False
    adapter: str | None = None
    tenants: npt.NDArray[np.uint64] | None = None
    version: int = ENVELOPE_VERSION


@dataclass
class Ping:
    """Asks a replica for its status, and tells it what a gateway holds back; `model` and `version` as in the envelope."""

    gateway: str
    model: str = ""
    gateway_queued_tokens: int = 0
    version: int = ENVELOPE_VERSION


@dataclass
class ReplicaStatus:
    """What a replica says of itself, with every chunk and to every ping; it corrects the gateway's view.

    `outstanding_tokens` are waiting or running there at the moment of the reply; `tokens_per_second` is measured over busy time, 0
    if unknown yet; `gateways_queued_tokens` is what the other gateways, not the one it speaks to, held back when it last heard from
    each.
    """

    replica: str
    outstanding_tokens: int = 0
    tokens_per_second: float = 0.0
    gateways_queued_tokens: int = 0


@dataclass(slots=True)
class ChunkReply:
    """What a replica answers to an envelope.

    `vectors` is float32 `[n, hidden]` in the envelope's order; a row whose index is in `errors` is zero and means nothing. So is
    that of an input whose `output` is `Output.TOKENS`: `token_vectors` has its index, and float32 `[length, hidden]`.
    `queue_seconds` and `inference_seconds` are float32 `[n]`.
    """

    status: ReplicaStatus
    vectors: Vectors
    errors: dict[int, Exception]
    queue_seconds: npt.NDArray[np.float32]
    inference_seconds: npt.NDArray[np.float32]
    token_vectors: dict[int, Vectors] = field(default_factory=dict)
    version: int = ENVELOPE_VERSION
