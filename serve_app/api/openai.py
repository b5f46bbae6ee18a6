"""The OpenAI dialect of `POST /v1/embeddings`: bytes to `EmbedJob`.

The contract is openai-openapi's `CreateEmbeddingRequest`, whose unknown fields are refused too.
`instruction`, `prompt_name`, `input_type`, `truncate`, `truncate_prompt_tokens` and `priority` are extensions, and
so are the `encoding_format`s of `Quantised` and `Raw`; an optional field that is null counts as left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from serve_app.api.decoding import BodyDecoder
from serve_app.api.inputs import SHAPES, read_input
from serve_app.api.models import Models
from serve_app.api.prompts import INPUT_TYPES, MAX_INSTRUCTION_CHARACTERS, InputType, Instruction, listed, resolve
from serve_app.api.quantise import check_packing
from serve_app.errors import InvalidRequestError
from serve_app.types import EmbedJob, Limits, OutputType, Priority, ServedModel, Truncate

# Qwen3-Embedding was trained to keep its meaning down to 32 dimensions (model card, "MRL Support").
MIN_DIMENSIONS = 32

_SHAPES = [msgspec.json.schema(shape) for shape in SHAPES]


Quantised = Literal[
    "float16",
    "int8",
    "uint8",
    "binary",
    "ubinary",
    "base64_float16",
    "base64_int8",
    "base64_uint8",
    "base64_binary",
    "base64_ubinary",
]
"""The formats of our own. OpenAI's clients ask for `base64` unasked and read it as float32, so its meaning can't depend on another
field; they hand on as it comes what a caller asked for by name."""


Raw = Literal["bytes", "bytes_only"]
"""vLLM's: the body is the vectors themselves, float32, little-endian, one behind the other, and no JSON. `bytes` describes them in a
header, for vLLM's clients."""

MOST_DESCRIBED = 64
"""Inputs of a request for `bytes`: about 100 bytes of header each, and many clients and proxies take no header over 8 kB."""


@dataclass(slots=True)
class EmbeddingsJob(EmbedJob):
    """A job, and how its vectors are to be written: which numbers, and whether as JSON, as base64 of their bytes, little-endian, or
    as these bytes (`raw`)."""

    output_type: OutputType = OutputType.FLOAT
    base64: bool = False
    raw: Raw | None = None


class EmbeddingsRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/embeddings`."""

    input: Annotated[
        msgspec.Raw,
        Meta(
            description="A text, texts, token ids or lists of them. Ids are the model's own, unless the server is set otherwise.",
            extra_json_schema={"anyOf": _SHAPES},
        ),
    ]
    model: Annotated[str, Meta(description="The served model: its id or the last part of it, in any case.")]
    dimensions: Annotated[
        int | None, Meta(description="Length of each vector. Shorter ones are cut and normalised again.")
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | Quantised | Raw | None,
        Meta(
            description="JSON numbers (default), or base64 of little-endian float32. Fewer bytes: half precision, int8 "
            "and one bit a dimension, as JSON numbers or base64 of their bytes; or the bytes of float32 alone, without JSON."
        ),
    ] = None
    user: Annotated[str | None, Meta(description="Accepted for compatibility; not used.")] = None
    instruction: Annotated[
        Instruction | None,
        Meta(description="The task in a sentence, for queries: `Instruct: …\\nQuery:` precedes every text."),
    ] = None
    prompt_name: Annotated[
        str | None,
        Meta(description="One of the model's prompts by name, to precede every text; `GET /v1/models` lists them."),
    ] = None
    input_type: Annotated[
        InputType | None,
        Meta(
            description="What the texts are, as in Cohere's API: it chooses the prompt. An `instruction` can replace its task, but "
            "for documents."
        ),
    ] = None
    truncate: Annotated[
        Literal["none", "start", "end"] | None,
        Meta(
            description="An input over the limit: refuse it (default), or drop its start or its end. A prompt stays whole."
        ),
    ] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, Meta(ge=-1, extra_json_schema={"not": {"const": 0}})] | None,
        Meta(
            description="Keep at most so many tokens of each input, -1 for the model's maximum. Drops the "
            "end, as vLLM does with this model's tokenizer, unless `truncate` is `start`."
        ),
    ] = None
    priority: Annotated[
        Literal["interactive", "bulk"] | None, Meta(description="Interactive (default) overtakes bulk.")
    ] = None


VECTOR_FORMATS: dict[str, tuple[OutputType, bool]] = {
    "float": (OutputType.FLOAT, False),
    "base64": (OutputType.FLOAT, True),
    **{name: (OutputType(name.removeprefix("base64_")), name.startswith("base64_")) for name in get_args(Quantised)},
}
"""What each `encoding_format` of JSON means: the type of the numbers, and whether they are written in base64."""

_RAW: tuple[Raw, ...] = get_args(Raw)

_RULES = {
    "model": "must be a string",
    "dimensions": "must be an integer",
    "encoding_format": f"must be {listed([*VECTOR_FORMATS, *_RAW])}",
    "user": "must be a string",
    "instruction": f"must be a string of at most {MAX_INSTRUCTION_CHARACTERS} characters",
    "prompt_name": "must be a string",
    "input_type": f"must be {listed([*INPUT_TYPES])}",
    "truncate": "must be 'none', 'start' or 'end'",
    "truncate_prompt_tokens": "must be a positive integer, or -1 for the model's maximum",
    "priority": "must be 'interactive' or 'bulk'",
}

_INSTEAD = {
    "normalize": "Remove it: vectors are always normalised.",
    "embedding_types": "Use 'encoding_format' instead.",
    "embed_dtype": "Use 'encoding_format' instead, with 'float16' or 'base64_float16' for half precision.",
    "endianness": "Remove it: bytes are always little-endian.",
    "output_dtype": "Use 'encoding_format' instead, with 'base64_int8' for base64 of int8.",
    "inputs": "Send the texts in 'input'.",
    "texts": "Send the texts in 'input'.",
    "prompt": "Send the text in 'input', and the task in 'instruction'.",
    "task": "Describe the task in 'instruction' instead.",
    "output_dimension": "Use 'dimensions' instead.",
    "truncation_side": "Use 'truncate': 'start' or 'end' instead.",
}

_body = BodyDecoder(EmbeddingsRequest, _RULES, "The JSON body must be an object with 'input' and 'model'.", _INSTEAD)


def parse(body: bytes, models: Models, limits: Limits) -> EmbeddingsJob:
    """The job that `body` asks for; `job.model` is the served id.

    Raises `InvalidRequestError` with the field in `param`, `TooManyTokensError` and `ModelNotFoundError`.
    """
    request = _body.decode(body)
    model = models.find(request.model)
    texts, token_ids = read_input(bytes(request.input), limits)
    prompt = resolve(model, request.instruction, request.prompt_name, request.input_type, texts=texts is not None)
    truncate, truncate_to = _truncation(request, model)
    dimensions = dimensions_of(request.dimensions, model, "dimensions")
    raw = _raw(request.encoding_format, len(texts or token_ids or ()))
    output_type, base64 = VECTOR_FORMATS["float" if raw is not None else request.encoding_format or "float"]
    check_packing(output_type, dimensions or model.dimensions, "dimensions")
    return EmbeddingsJob(
        model=model.id,
        texts=texts,
        token_ids=token_ids,
        prompt=prompt,
        truncate=truncate,
        truncate_to=truncate_to,
        dimensions=dimensions,
        output_type=output_type,
        base64=base64,
        raw=raw,
        priority=Priority.BULK if request.priority == "bulk" else Priority.INTERACTIVE,
    )


def dimension_range(model: ServedModel) -> tuple[int, int]:
    """The shortest and the longest vector that `model` gives."""
    return min(MIN_DIMENSIONS, model.dimensions), model.dimensions


def dimensions_of(wanted: int | None, model: ServedModel, field: str) -> int | None:
    """`wanted`, if `model` gives vectors of that length or it's None. Raises `InvalidRequestError` that names `field`."""
    low, high = dimension_range(model)
    if wanted is not None and not low <= wanted <= high:
        raise InvalidRequestError(f"'{field}' must be from {low} to {high} for the model '{model.id}'.", field)
    return wanted


def _raw(wanted: str | None, inputs: int) -> Raw | None:
    found = next((name for name in _RAW if name == wanted), None)
    if found == "bytes" and inputs > MOST_DESCRIBED:
        raise InvalidRequestError(
            f"'bytes' describes each vector in a header, and takes at most {MOST_DESCRIBED} inputs. Ask for 'bytes_only'.",
            "encoding_format",
        )
    return found


def _truncation(request: EmbeddingsRequest, model: ServedModel) -> tuple[Truncate, int | None]:
    keep, field = request.truncate_prompt_tokens, "truncate_prompt_tokens"
    if keep is None:
        return Truncate(request.truncate or "none"), None
    if request.truncate == "none":
        raise InvalidRequestError(f"'{field}' contradicts 'truncate': 'none'. Remove one of them.", field)
    if keep == 0 or keep > model.max_input_tokens:
        raise InvalidRequestError(f"'{field}' must be from 1 to {model.max_input_tokens}, or -1.", field)
    return Truncate(request.truncate or "end"), None if keep == -1 else keep
