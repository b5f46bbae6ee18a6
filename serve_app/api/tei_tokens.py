"""`POST /tokenize` and `POST /decode`: between texts and the model's token ids, without computing vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import msgspec
import orjson
from msgspec import Meta, Struct

from serve_app.api.decoding import BodyDecoder
from serve_app.api.inputs import SHAPES, read_input, read_texts
from serve_app.api.models import Models
from serve_app.api.prompts import Instruction, resolve
from serve_app.api.tei import INSTRUCTION_RULE, WHOLE
from serve_app.errors import InvalidRequestError
from serve_app.types import Limits, TokenIds, Tokenized

# One call for all tokens of a long text would hold the GIL, and so /health, for tens of milliseconds.
_TOKENS_AT_ONCE = 4096

_TEXT, _TEXTS, _IDS, _ID_LISTS = (msgspec.json.schema(shape) for shape in SHAPES)


class TeiTokenizeRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /tokenize`."""

    inputs: Annotated[msgspec.Raw, Meta(description="A text or texts.", extra_json_schema={"anyOf": [_TEXT, _TEXTS]})]
    add_special_tokens: Annotated[
        bool | None, Meta(description="Whether to end with `<|endoftext|>`, as vectors need it (default: yes).")
    ] = None
    prompt_name: Annotated[
        str | None,
        Meta(description="One of the model's prompts by name, to precede every text; `GET /v1/models` lists them."),
    ] = None
    instruction: Annotated[
        Instruction | None,
        Meta(
            description="The task in a sentence, for queries: `Instruct: …\\nQuery:` precedes every text. TEI lacks it."
        ),
    ] = None


class TeiToken(Struct):
    """A token. `text` is what it covers of the input, prompt included, from character `start` to before `stop`; a token that was added
    to the text has no place in it, and its own name for a text."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiDecodeRequest(Struct, forbid_unknown_fields=True):
    """Body of `POST /decode`."""

    ids: Annotated[
        msgspec.Raw,
        Meta(description="Token ids of this model, or lists of them.", extra_json_schema={"anyOf": [_IDS, _ID_LISTS]}),
    ]
    skip_special_tokens: Annotated[
        bool | None, Meta(description="Whether to leave special tokens out of the text (default: yes).")
    ] = None


@dataclass(frozen=True, slots=True)
class TokenizeJob:
    """Texts to be tokenized; `prompt` precedes each of them."""

    texts: list[str]
    prompt: str | None
    add_special_tokens: bool


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """Token ids, int32 `[length]` each, to be made texts of."""

    token_ids: list[TokenIds]
    skip_special_tokens: bool


_tokenize = BodyDecoder(
    TeiTokenizeRequest,
    {
        "add_special_tokens": "must be true or false",
        "prompt_name": "must be a string",
        "instruction": INSTRUCTION_RULE,
    },
    WHOLE,
    dict.fromkeys(("input", "prompt", "text", "texts"), "Send the text in 'inputs'."),
)
_decode = BodyDecoder(
    TeiDecodeRequest,
    {"skip_special_tokens": "must be true or false"},
    "The JSON body must be an object with 'ids'.",
    dict.fromkeys(("inputs", "tokens"), "Send token ids in 'ids'."),
)


def parse_tokenize(body: bytes, models: Models, limits: Limits) -> TokenizeJob:
    """What a body of `/tokenize` asks for. Raises `InvalidRequestError`."""
    request = _tokenize.decode(body)
    texts = read_texts(bytes(request.inputs), limits, "inputs", or_one=True)
    prompt = resolve(models.default, request.instruction, request.prompt_name)
    return TokenizeJob(texts, prompt, request.add_special_tokens is not False)


def parse_decode(body: bytes, models: Models, limits: Limits) -> DecodeJob:
    """What a body of `/decode` asks for. Raises `InvalidRequestError` and `TooManyTokensError`."""
    request = _decode.decode(body)
    texts, token_ids = read_input(
        bytes(request.ids), limits, "ids", "Send a list of token ids, or a list of such lists."
    )
    if texts is not None or token_ids is None:
        raise InvalidRequestError("'ids' must be a list of token ids, or a list of such lists.", "ids")
    return DecodeJob(token_ids, request.skip_special_tokens is not False)


def render_tokenize(inputs: list[Tokenized]) -> bytes:
    """`[[TeiToken]]`, one list for each text."""
    return b"[%b]" % b",".join(_tokens(tokenized) for tokenized in inputs)


def render_decode(texts: list[str]) -> bytes:
    """`[text]`."""
    return b"[%b]" % b",".join(map(orjson.dumps, texts))


def _tokens(tokenized: Tokenized) -> bytes:
    described = _described(tokenized)
    parts = []
    while part := list(islice(described, _TOKENS_AT_ONCE)):
        parts.append(orjson.dumps(part)[1:-1])
    return b"[%b]" % b",".join(parts)


def _described(tokenized: Tokenized) -> Iterator[dict[str, object]]:
    text, added = tokenized.text, tokenized.added
    for index, (token, (start, stop)) in enumerate(zip(tokenized.ids, tokenized.offsets, strict=True)):
        if index in added:
            yield {"id": token, "text": added[index], "special": True, "start": None, "stop": None}
        else:
            yield {"id": token, "text": text[start:stop], "special": False, "start": start, "stop": stop}
