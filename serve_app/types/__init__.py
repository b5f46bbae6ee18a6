"""The shared nouns: what a request, a chunk and a reply are.

Everything here is plain data that any layer may hold. Arrays are numpy; nothing here imports Ray, torch or pydantic.
"""

from serve_app.types.messages import ENVELOPE_VERSION, ChunkReply, Envelope, Ping, ReplicaStatus
from serve_app.types.request import (
    DEMO_MODEL_ID,
    MOST_TOKEN_VALUES,
    TOKEN_VALUES,
    EmbedJob,
    EmbedResult,
    Grant,
    Limits,
    Output,
    OutputType,
    Priority,
    Quota,
    ServedModel,
    Stage,
    TokenIds,
    Tokenized,
    TokenVectors,
    Truncate,
    Vectors,
)

__all__ = [
    "DEMO_MODEL_ID",
    "ENVELOPE_VERSION",
    "MOST_TOKEN_VALUES",
    "TOKEN_VALUES",
    "ChunkReply",
    "EmbedJob",
    "EmbedResult",
    "Envelope",
    "Grant",
    "Limits",
    "Output",
    "OutputType",
    "Ping",
    "Priority",
    "Quota",
    "ReplicaStatus",
    "ServedModel",
    "Stage",
    "TokenIds",
    "TokenVectors",
    "Tokenized",
    "Truncate",
    "Vectors",
]
