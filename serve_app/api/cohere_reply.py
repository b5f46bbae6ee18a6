"""The Cohere dialect of `POST /v2/embed` and `POST /v1/embed`: `EmbedResult` to bytes, and errors in Cohere's words."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Literal

import numpy as np
import orjson
from msgspec import UNSET, Struct, UnsetType, field

from serve_app.api.cohere import CohereJob
from serve_app.api.cohere_request import EmbeddingType
from serve_app.api.errors import retry_headers
from serve_app.api.http import Reply, Request
from serve_app.api.quantise import quantise
from serve_app.errors import InputOverMemoryError, InputTooLongError, NonFiniteError, RequestError
from serve_app.types import EmbedResult, OutputType, Truncate, Vectors

# What else a caller can do, in Cohere's own fields.
_ADVICE: dict[type[RequestError], str] = {
    InputTooLongError: ". Send truncate=END or truncate=START to have it cut.",
    InputOverMemoryError: " A lower max_tokens with truncate=END or truncate=START cuts it too.",
}


class Typed(Struct):
    """The vectors by type: those that were asked for."""

    floats: list[list[float]] | UnsetType = field(name="float", default=UNSET)
    int8: list[list[int]] | UnsetType = UNSET
    uint8: list[list[int]] | UnsetType = UNSET
    binary: list[list[int]] | UnsetType = UNSET
    ubinary: list[list[int]] | UnsetType = UNSET
    base64: list[str] | UnsetType = UNSET


class ApiVersion(Struct):
    """The version of the route."""

    version: str


class BilledUnits(Struct):
    """Tokens as the model saw them: the prompt and the closing token of every input included."""

    input_tokens: int


class ApiMeta(Struct):
    """What else there is to say. `warnings` is there if inputs were truncated, and says how many."""

    api_version: ApiVersion
    billed_units: BilledUnits
    warnings: list[str] | UnsetType = UNSET


class EmbedReply(Struct):
    """Reply of `POST /v2/embed`, and of `POST /v1/embed` with `embedding_types`. `id` is the request's `x-request-id`."""

    id: str
    embeddings: Typed
    texts: list[str]
    meta: ApiMeta
    response_type: Literal["embeddings_by_type"]


class EmbedFloatsReply(Struct):
    """Reply of `POST /v1/embed` without `embedding_types`."""

    id: str
    embeddings: list[list[float]]
    texts: list[str]
    meta: ApiMeta
    response_type: Literal["embeddings_floats"]


class CohereError(Struct):
    """Body of every response of these routes that isn't a success. `id` is the request's `x-request-id`."""

    message: str
    id: str


def render(result: EmbedResult, job: CohereJob, request_id: str) -> bytes:
    """The JSON body for `result.vectors`, float32 `[inputs, dimensions]`, in all types that `job` asks for.

    Raises `NonFiniteError`: JSON has no NaN, and null in a vector corrupts an index silently.
    """
    if not np.isfinite(result.vectors).all():
        raise NonFiniteError("a vector is not finite")
    if job.plain:
        embeddings = _written(result.vectors, "float")
    else:
        items = [b'"%b":%b' % (kind.encode(), _written(result.vectors, kind)) for kind in job.types]
        embeddings = b"{%b}" % b",".join(items)
    return b'{"id":%b,"embeddings":%b,"texts":%b,"meta":%b,"response_type":"embeddings_%b"}' % (
        orjson.dumps(request_id),
        embeddings,
        orjson.dumps(job.texts),
        orjson.dumps(_meta(result, job)),
        b"floats" if job.plain else b"by_type",
    )


def _written(vectors: Vectors, kind: EmbeddingType) -> bytes:
    # Row by row, not in one call: that lets the event loop in between the rows when a large reply is rendered in a thread.
    if kind == "base64":
        rows = [b'"%b"' % b2a_base64(row, newline=False) for row in quantise(vectors, OutputType.FLOAT)]
    else:
        rows = [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in quantise(vectors, OutputType(kind))]
    return b"[%b]" % b",".join(rows)


def _meta(result: EmbedResult, job: CohereJob) -> dict[str, object]:
    meta: dict[str, object] = {
        "api_version": {"version": str(job.version)},
        "billed_units": {"input_tokens": result.prompt_tokens},
    }
    if job.truncated:
        side = "start" if job.truncate is Truncate.START else "end"
        meta["warnings"] = [
            f"{job.truncated} of {len(job)} inputs had more than {job.limit} tokens and lost their {side}. "
            "Send truncate=NONE to have such requests refused."
        ]
    return meta


def cohere_error_reply(error: RequestError, request: Request) -> Reply:
    """The response for `error`: `{"message", "id"}`, with the status and words of Cohere's own where it has some.

    Cohere has no 408; its clients know a deadline as 504, and retry that too.
    """
    status, message = error.status, error.message + _ADVICE.get(type(error), "")
    if status == 408:
        status = 504
    elif status == 401:
        message = "invalid api token" if error.code == "invalid_api_key" else "no api key supplied"
    elif status == 400 and not message.startswith("invalid json syntax"):
        message = f"invalid request: {message}"
    body = orjson.dumps({"message": message, "id": request.id})
    return Reply(status, body, headers=retry_headers(error), code=error.code)
