"""The bodies of Cohere's `POST /v2/embed` and `POST /v1/embed`, as cohere-developer-experience's `cohere-openapi.yaml` has them.

`instruction` is an extension; an optional field that is null counts as left out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from serve_app.api.prompts import InputType, Instruction

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

_NULL = {"type": "null"}
_TEXT = {"type": "string", "minLength": 1}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_INPUT = {
    "type": "object",
    "properties": {"content": {"type": "array", "items": _PART, "minItems": 1}},
    "required": ["content"],
    "additionalProperties": False,
}


class EmbedRequestV1(Struct, forbid_unknown_fields=True):
    """Body of `POST /v1/embed`."""

    model: Annotated[str | None, Meta(description="The served model's id, the last part of it, or an alias.")] = None
    input_type: Annotated[
        InputType | None,
        Meta(description="What the texts are: it chooses the prompt. Images aren't supported."),
    ] = None
    texts: Annotated[
        msgspec.Raw,
        Meta(
            description="What to embed: texts, none of them empty, or `inputs`.",
            extra_json_schema={"anyOf": [{"type": "array", "items": _TEXT}, _NULL]},
        ),
    ] = field(default_factory=msgspec.Raw)
    inputs: Annotated[
        msgspec.Raw,
        Meta(
            description="Instead of `texts`. The text parts of an input are joined by newlines; images aren't supported.",
            extra_json_schema={"anyOf": [{"type": "array", "items": _INPUT}, _NULL]},
        ),
    ] = field(default_factory=msgspec.Raw)
    images: Annotated[msgspec.Raw, Meta(description="Not supported.", extra_json_schema={"enum": [None, []]})] = field(
        default_factory=msgspec.Raw
    )
    embedding_types: Annotated[
        list[EmbeddingType] | None, Meta(description="One or more; `float` if left out. `base64` is of float32.")
    ] = None
    output_dimension: Annotated[
        int | None, Meta(description="Length of each vector. Shorter ones are cut and normalised again.")
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="An input over so many tokens, prompt included, is treated as `truncate` says."),
    ] = None
    truncate: Annotated[
        Literal["NONE", "START", "END"] | None,
        Meta(
            description="An input over the limit: refuse it, or drop its start or its end (default), and say so in `meta.warnings`."
        ),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=999)] | None, Meta(description="0 (default) overtakes all other numbers.")
    ] = None
    instruction: Annotated[
        Instruction | None,
        Meta(
            description="The task in a sentence, in place of that of the `input_type`: `Instruct: …\\nQuery:` precedes every text. "
            "Not for documents."
        ),
    ] = None


class EmbedRequest(EmbedRequestV1, kw_only=True):
    """Body of `POST /v2/embed`."""

    model: Annotated[str, Meta(description="The served model's id, the last part of it, or an alias.")]
    input_type: Annotated[
        InputType,
        Meta(description="What the texts are: it chooses the prompt. Images aren't supported."),
    ]
