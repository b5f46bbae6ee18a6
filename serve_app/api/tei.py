"""Text Embeddings Inference's dialect: bodies of `POST /embed`, `/`, `/embed_all` and `/similarity` to `EmbedJob`s.

The contract is TEI's `router/src/http/types.rs`. Three things differ on purpose: `truncate` is false unless the request says
otherwise, whatever TEI's server-wide default; fields that TEI would ignore are refused by name; and one list holds either texts or
token ids. `instruction` is an extension. An optional field that is null counts as left out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from serve_app.api.decoding import BodyDecoder
from serve_app.api.inputs import SHAPES, Text, read_input, read_texts
from serve_app.api.models import Models
from serve_app.api.openai import dimensions_of
from serve_app.api.prompts import MAX_INSTRUCTION_CHARACTERS, Instruction, resolve
from serve_app.errors import InvalidRequestError
from serve_app.types import EmbedJob, Limits, Output, ServedModel, Truncate

# TEI reads the capitalised words; huggingface_hub and TEI's documentation write the others.
Direction = Literal["left", "right", "Left", "Right"]

_Inputs = Annotated[
    msgspec.Raw,
    Meta(
        description="A text, texts, token ids or lists of them. Ids are the model's own, unless the server is set otherwise.",
        extra_json_schema={"anyOf": [msgspec.json.schema(shape) for shape in SHAPES]},
    ),
]
_Truncate = Annotated[
    bool | None, Meta(description="Whether an input over the limit is cut (default: no, it is refused).")
]
_Direction = Annotated[
    Direction | None, Meta(description="The end that `truncate` cuts: the right one (default) or the left one.")
]
_PromptName = Annotated[
    str | None,
    Meta(description="One of the model's prompts by name, to precede every text; `GET /v1/models` lists them."),
]
_Instruction = Annotated[
    Instruction | None,
    Meta(description="The task in a sentence, for queries: `Instruct: …\\nQuery:` precedes every text. TEI lacks it."),
]


class TeiEmbedRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /embed` and `POST /`."""

    inputs: _Inputs
    normalize: Annotated[
        Annotated[bool, Meta(extra_json_schema={"const": True})] | None,
        Meta(description="Vectors are always L2-normalised: false is refused."),
    ] = None
    truncate: _Truncate = None
    truncation_direction: _Direction = None
    prompt_name: _PromptName = None
    dimensions: Annotated[
        int | None, Meta(description="Length of each vector. Shorter ones are cut and normalised again.")
    ] = None
    instruction: _Instruction = None


class TeiEmbedAllRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /embed_all`."""

    inputs: _Inputs
    truncate: _Truncate = None
    truncation_direction: _Direction = None
    prompt_name: _PromptName = None
    instruction: _Instruction = None


class TeiSimilarityInputs(Struct, forbid_unknown_fields=True):
    """A text, and the texts that it is compared with."""

    source_sentence: Annotated[Text, Meta(description="The text that the others are compared with.")]
    sentences: Annotated[
        msgspec.Raw,
        Meta(description="The others.", extra_json_schema=msgspec.json.schema(SHAPES[1])),
    ]


class TeiSimilarityParameters(Struct, forbid_unknown_fields=True):
    """How texts are embedded before they are compared. A prompt goes before all of them, the source included."""

    truncate: _Truncate = None
    truncation_direction: _Direction = None
    prompt_name: _PromptName = None
    instruction: _Instruction = None


class TeiSimilarityRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /similarity`."""

    inputs: TeiSimilarityInputs
    parameters: TeiSimilarityParameters | None = None


INSTRUCTION_RULE = f"must be a string of at most {MAX_INSTRUCTION_CHARACTERS} characters"
_SENTENCES = "inputs.sentences"
_TRUNCATION = {
    "truncate": "must be true or false",
    "truncation_direction": "must be 'left' or 'right'",
    "prompt_name": "must be a string",
    "instruction": INSTRUCTION_RULE,
}
WHOLE = "The JSON body must be an object with 'inputs'."
_INSTEAD = {
    "encoding_format": "Vectors are JSON numbers here; POST /v1/embeddings writes base64 too.",
    "model": "Remove it: this API has one model, see GET /info.",
    "input": "Send the texts in 'inputs'.",
    "texts": "Send the texts in 'inputs'.",
    "input_type": "Use 'prompt_name' instead, with 'query' or 'document'.",
    "prompt": "Send the text in 'inputs', and the task in 'instruction'.",
    # huggingface_hub's `sentence_similarity` sends to the address that it was given.
    "parameters": "Send its fields beside 'inputs', or sentences to be compared to POST /similarity.",
}
_ONLY_POOLED = {
    "normalize": "Remove it: the vectors of tokens are as the model makes them.",
    "dimensions": "Remove it: the vectors of tokens have the model's own length.",
}

_embed = BodyDecoder(
    TeiEmbedRequest,
    {**_TRUNCATION, "normalize": "must be true or left out", "dimensions": "must be an integer"},
    WHOLE,
    _INSTEAD,
)
_embed_all = BodyDecoder(TeiEmbedAllRequest, _TRUNCATION, WHOLE, _INSTEAD | _ONLY_POOLED)
_similarity = BodyDecoder(
    TeiSimilarityRequest,
    {
        "inputs": "must be an object with 'source_sentence' and 'sentences'",
        "inputs.source_sentence": "must be a string of at least one character",
        "parameters": "must be an object",
        **{f"parameters.{name}": rule for name, rule in _TRUNCATION.items()},
    },
    WHOLE,
    {"source_sentence": "Send it inside 'inputs'.", "sentences": "Send them inside 'inputs'."},
)


def parse_embed(body: bytes, models: Models, limits: Limits) -> EmbedJob:
    """The job that a body of `/embed` asks for. Raises `InvalidRequestError` and `TooManyTokensError`."""
    request = _embed.decode(body)
    if request.normalize is False:
        raise InvalidRequestError(
            "'normalize' can't be false: this server's vectors are L2-normalised where they are computed. Remove it.",
            "normalize",
        )
    job = _job(request, models.default, limits)
    job.dimensions = dimensions_of(request.dimensions, models.default, "dimensions")
    return job


def parse_embed_all(body: bytes, models: Models, limits: Limits) -> EmbedJob:
    """The job that a body of `/embed_all` asks for. Raises `InvalidRequestError` and `TooManyTokensError`."""
    job = _job(_embed_all.decode(body), models.default, limits)
    job.output = Output.TOKENS
    return job


def parse_similarity(body: bytes, models: Models, limits: Limits) -> EmbedJob:
    """The job that a body of `/similarity` asks for; the source sentence is the first of its texts. Raises `InvalidRequestError`."""
    request = _similarity.decode(body)
    parameters = request.parameters or TeiSimilarityParameters()
    sentences = read_texts(bytes(request.inputs.sentences), limits, _SENTENCES, beside=1)
    model = models.default
    return EmbedJob(
        model=model.id,
        texts=[request.inputs.source_sentence, *sentences],
        prompt=resolve(model, parameters.instruction, parameters.prompt_name),
        truncate=truncation(parameters.truncate, parameters.truncation_direction),
    )


def _job(request: TeiEmbedRequest | TeiEmbedAllRequest, model: ServedModel, limits: Limits) -> EmbedJob:
    texts, token_ids = read_input(bytes(request.inputs), limits, "inputs")
    return EmbedJob(
        model=model.id,
        texts=texts,
        token_ids=token_ids,
        prompt=resolve(model, request.instruction, request.prompt_name, texts=texts is not None),
        truncate=truncation(request.truncate, request.truncation_direction),
    )


def truncation(truncate: bool | None, direction: Direction | None) -> Truncate:
    """What is cut from an input over the limit; nothing unless the request says so."""
    if not truncate:
        return Truncate.NONE
    return Truncate.START if direction in ("left", "Left") else Truncate.END
