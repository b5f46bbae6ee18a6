"""The Cohere dialect of `POST /v2/embed` and `POST /v1/embed`: bytes to `CohereJob`.

As in Cohere's API, an input over the limit is cut at its end unless `truncate` is `NONE`; the reply says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar, get_args

import msgspec

from serve_app.api.body import why_unreadable
from serve_app.api.cohere_inputs import no_images, read_inputs, read_texts
from serve_app.api.cohere_request import EmbeddingType, EmbedRequest, EmbedRequestV1
from serve_app.api.models import Models
from serve_app.api.openai import dimensions_of
from serve_app.api.prompts import INPUT_TYPES, MAX_INSTRUCTION_CHARACTERS, listed, resolve
from serve_app.api.quantise import check_packing
from serve_app.errors import InvalidRequestError, ModelNotFoundError
from serve_app.types import EmbedJob, Limits, OutputType, Priority, ServedModel, Truncate


@dataclass(slots=True)
class CohereJob(EmbedJob):
    """A job, and what its reply must say.

    `types` are those of the vectors, in the order asked for; `plain` asks for v1's list of float vectors without a type. `limit`
    is how many tokens an input may have.
    """

    version: int = 2
    types: tuple[EmbeddingType, ...] = ("float",)
    plain: bool = False
    limit: int = 0


_v1: msgspec.json.Decoder[EmbedRequestV1] = msgspec.json.Decoder(EmbedRequestV1)
_v2: msgspec.json.Decoder[EmbedRequest] = msgspec.json.Decoder(EmbedRequest)

_RULES = {
    "model": "must be a string",
    "input_type": f"must be {listed([*INPUT_TYPES])}",
    "texts": "must be a list of strings",
    "inputs": 'must be a list of objects like {"content": [{"type": "text", "text": "..."}]}, with no empty text',
    "embedding_types": f"must be a list of {listed(get_args(EmbeddingType))}",
    "output_dimension": "must be an integer",
    "max_tokens": "must be an integer above 0",
    "truncate": "must be 'NONE', 'START' or 'END'",
    "priority": "must be an integer from 0 to 999",
    "instruction": f"must be a string of at most {MAX_INSTRUCTION_CHARACTERS} characters",
}

_Request = TypeVar("_Request", bound=EmbedRequestV1)

_FIELD = re.compile(r" - at `\$\.(\w+)")
_MISSING = re.compile(r"^Object missing required field `(\w+)`$")
_IMAGE = "Invalid enum value 'image' - at `$.input_type`"
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*?)`(?: - at `\$(.*)`)?$", re.DOTALL)


def parse_v1(body: bytes, models: Models, limits: Limits) -> CohereJob:
    """The job that the body of `POST /v1/embed` asks for; errors as those of `parse_v2`."""
    request = _read(_v1, body, "'texts'")
    model = models.default if request.model is None else _find(models, request.model)
    job = _job(request, model, limits)
    job.version, job.plain = 1, not request.embedding_types
    return job


def parse_v2(body: bytes, models: Models, limits: Limits) -> CohereJob:
    """The job that the body of `POST /v2/embed` asks for; `job.model` is the served id.

    Raises `InvalidRequestError` with the field in `param`, and `ModelNotFoundError`.
    """
    request = _read(_v2, body, "'model', 'input_type' and 'texts'")
    assert request.model is not None
    return _job(request, _find(models, request.model), limits)


def _read(decoder: msgspec.json.Decoder[_Request], body: bytes, required: str) -> _Request:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), required) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"invalid json syntax: {why_unreadable(body, error)}") from None


def _find(models: Models, name: str) -> ServedModel:
    try:
        return models.find(name)
    except ModelNotFoundError:
        if not models.served:
            raise
        served = listed([model.id for model in models.served])
        raise ModelNotFoundError(
            f"model '{name[:100]}' not found, make sure the correct model ID was used and that you have access to the "
            f"model. Served here: {served}; the setting model_aliases gives it other names.",
            "model",
        ) from None


def _job(request: EmbedRequestV1, model: ServedModel, limits: Limits) -> CohereJob:
    types: tuple[EmbeddingType, ...] = tuple(dict.fromkeys(request.embedding_types or ("float",)))
    dimensions = dimensions_of(request.output_dimension, model, "output_dimension")
    for kind in types:
        if kind != "base64":
            check_packing(OutputType(kind), dimensions or model.dimensions, "output_dimension")
    return CohereJob(
        model=model.id,
        texts=_texts(request, min(limits.max_cohere_texts, limits.max_inputs)),
        prompt=resolve(model, request.instruction, None, request.input_type),
        truncate=Truncate((request.truncate or "END").lower()),
        truncate_to=request.max_tokens,
        dimensions=dimensions,
        priority=Priority.BULK if request.priority else Priority.INTERACTIVE,
        types=types,
        limit=min(request.max_tokens or limits.max_input_tokens, limits.max_input_tokens),
    )


def _texts(request: EmbedRequestV1, limit: int) -> list[str]:
    given = {name: bytes(getattr(request, name)) for name in ("texts", "inputs", "images")}
    given = {name: raw for name, raw in given.items() if raw not in (b"", b"null")}
    if given.pop("images", b"[]").translate(None, b" \t\r\n") != b"[]":
        raise no_images("images")
    if len(given) != 1:
        raise InvalidRequestError("exactly one of 'texts' and 'inputs' must be provided", "texts")
    [(field, raw)] = given.items()
    try:
        return read_texts(raw, limit) if field == "texts" else read_inputs(raw, limit)
    except msgspec.ValidationError as error:
        unknown = _unknown(str(error), field)
        raise unknown or InvalidRequestError(f"'{field}' {_RULES[field]}", field) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"invalid json syntax: {why_unreadable(raw, error)}") from None


def _unknown(said: str, within: str = "") -> InvalidRequestError | None:
    """The error for a field that isn't known, inside the field `within` or beside all others; None if `said` is of another."""
    found = _UNKNOWN.match(said)
    if found is None:
        return None
    name, place = found[1][:64], found[2] or ""
    path = f"{within}{place}.{name}" if within else name
    return InvalidRequestError(f"unknown field: parameter '{path}' is not a valid field", within or name)


def _invalid(said: str, required: str) -> InvalidRequestError:
    missing = _MISSING.match(said)
    if missing is not None and missing[1] == "input_type":
        return InvalidRequestError("valid input_type must be provided with the provided model", "input_type")
    if missing is not None:
        return InvalidRequestError(f"'{missing[1]}' must be provided", missing[1])
    unknown = _unknown(said)
    if unknown is not None:
        return unknown
    if said == _IMAGE:
        return no_images("input_type")
    field = _FIELD.search(said)
    if field is None:
        return InvalidRequestError(f"the body must be a JSON object with {required}")
    return InvalidRequestError(f"'{field[1]}' {_RULES[field[1]]}", field[1])
