"""What Cohere's API takes to embed: `texts`, or `inputs` with text parts. Images are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct, field
from msgspec.json import Decoder

from serve_app.api.inputs import SMALL, strings_at_least
from serve_app.errors import InvalidRequestError


class Part(Struct, forbid_unknown_fields=True):
    """A piece of an input. Its `image_url`, if it is an image, is never read."""

    type: Literal["text", "image_url"]
    text: Annotated[str, Meta(min_length=1)] | None = None
    image_url: Raw = field(default_factory=Raw)


class Input(Struct, forbid_unknown_fields=True):
    """An input of parts, which are joined by newlines."""

    content: Annotated[list[Part], Meta(min_length=1)]


_texts: Decoder[list[str]] = Decoder(list[str])
_inputs: Decoder[list[Input]] = Decoder(list[Input])

# More parts than this are refused before they are decoded, with these names counted in the raw JSON.
_PARTS_PER_INPUT = 16
_NAMES = (b'"content"', b'"type"')


def read_texts(raw: bytes, limit: int) -> list[str]:
    """The list of texts in the JSON value `raw`. Raises `InvalidRequestError` and `msgspec.ValidationError`."""
    # Tiny items grow to twenty times their JSON: count before decoding.
    if len(raw) > SMALL and strings_at_least(raw) > limit:
        raise _too_many("texts", limit, f"more than {limit}")
    texts = _texts.decode(raw)
    _check_count(texts, "texts", limit)
    if "" in texts:
        message = f"inputs contains an element that is the empty string at index {texts.index('')}"
        raise InvalidRequestError(message, "texts")
    return texts


def read_inputs(raw: bytes, limit: int) -> list[str]:
    """The texts of the `inputs` in the JSON value `raw`. Raises `InvalidRequestError` and `msgspec.ValidationError`."""
    if len(raw) > SMALL and any(raw.count(name) > _PARTS_PER_INPUT * limit for name in _NAMES):
        raise _too_many("inputs", limit, "too many parts")
    inputs = _inputs.decode(raw)
    _check_count(inputs, "inputs", limit)
    return [_joined(item, index) for index, item in enumerate(inputs)]


def _joined(item: Input, index: int) -> str:
    texts = []
    for place, part in enumerate(item.content):
        if part.type == "image_url":
            raise no_images("inputs")
        if part.text is None:
            message = f"inputs[{index}].content[{place}] is of type text but has no 'text'"
            raise InvalidRequestError(message, "inputs")
        texts.append(part.text)
    return "\n".join(texts)


def _check_count(items: Sequence[object], field: str, limit: int) -> None:
    if not items:
        raise InvalidRequestError(f"'{field}' is empty: send at least one", field)
    if len(items) > limit:
        raise _too_many(field, limit, str(len(items)))


def _too_many(field: str, limit: int, received: str) -> InvalidRequestError:
    return InvalidRequestError(f"total number of {field} must be at most {limit} - received {received}", field)


def no_images(field: str) -> InvalidRequestError:
    """The error for a request with images in it."""
    return InvalidRequestError("this model embeds text only: send 'texts', or 'inputs' with parts of type text", field)
