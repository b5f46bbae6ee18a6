"""The OpenAI dialect of `POST /v1/embeddings`: `EmbedResult` to bytes."""

from __future__ import annotations

import json
import time
from binascii import b2a_base64
from typing import Literal

import numpy as np
import orjson
from msgspec import Struct

from serve_app.api.http import JSON, Headers, Request
from serve_app.api.openai import EmbeddingsJob
from serve_app.api.quantise import quantise
from serve_app.errors import NonFiniteError
from serve_app.types import EmbedResult


class Usage(Struct):
    """Tokens as the model saw them: the instruction and the closing token of every input included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Struct):
    """One vector: numbers, or base64 of their bytes, little-endian, as `encoding_format` asked."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsReply(Struct):
    """Reply of `POST /v1/embeddings` (openai-openapi `CreateEmbeddingResponse`). `model` is the served id."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


def render(result: EmbedResult, job: EmbeddingsJob, request_id: str = "") -> bytes:
    """The body for `result.vectors`, float32 `[inputs, dimensions]`, written as `job` says: JSON unless it is `raw`.

    Raises `NonFiniteError`: JSON has no NaN, and null in a vector corrupts an index silently.

    Written row by row and not in one call: that lets the event loop in between the rows when a large reply is
    rendered in a thread, and costs no more.
    """
    if not np.isfinite(result.vectors).all():
        raise NonFiniteError("a vector is not finite")
    vectors = quantise(result.vectors, job.output_type)
    if job.raw is not None:
        return vectors.tobytes()
    if job.base64:
        items = [
            b'{"object":"embedding","index":%d,"embedding":"%b"}' % (index, b2a_base64(row, newline=False))
            for index, row in enumerate(vectors)
        ]
    else:
        items = [
            b'{"object":"embedding","index":%d,"embedding":%b}'
            % (index, orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))
            for index, row in enumerate(vectors)
        ]
    # Both ends ride on an item, so that the one join is the only copy of what may be 100 MB.
    items[0] = b'{"object":"list","data":[' + items[0]
    items[-1] += b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        orjson.dumps(job.model),
        result.prompt_tokens,
        result.prompt_tokens,
    )
    return b",".join(items)


def content_type(job: EmbeddingsJob) -> bytes:
    """What the body that `render` writes is."""
    return JSON if job.raw is None else b"application/octet-stream"


def headers(result: EmbedResult, job: EmbeddingsJob, request: Request) -> Headers:
    """For `bytes`, where each vector is in the body, as JSON, and the usage: vLLM's header `metadata`, which its
    `examples/pooling/embed` read."""
    if job.raw != "bytes":
        return []
    dimensions = result.vectors.shape[1]
    size = 4 * dimensions
    described = {
        "id": request.id,
        "created": int(time.time()),
        "model": job.model,
        "data": [
            {
                "index": index,
                "embed_dtype": "float32",
                "endianness": "little",
                "start": index * size,
                "end": (index + 1) * size,
                "shape": [dimensions],
            }
            for index in range(result.inputs)
        ],
        "usage": {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens},
    }
    # ASCII only: it is a header.
    return [(b"metadata", json.dumps(described, separators=(",", ":")).encode())]
