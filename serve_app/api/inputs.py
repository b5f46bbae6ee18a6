"""The four shapes of an input, whatever the dialect calls it: a text, texts, token ids, lists of token ids."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.json import Decoder

from serve_app.api.decoding import unreadable
from serve_app.errors import EmptyListError, InvalidRequestError, TooManyTokensError
from serve_app.types import Limits, TokenIds

Text = Annotated[str, Meta(min_length=1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Texts = Annotated[list[Text], Meta(min_length=1)]
Ids = Annotated[list[TokenId], Meta(min_length=1)]
IdLists = Annotated[list[Ids], Meta(min_length=1)]
SHAPES: tuple[Any, ...] = (Text, Texts, Ids, IdLists)

_text: Decoder[str] = Decoder(Text)
_texts: Decoder[list[str]] = Decoder(Texts)
_ids: Decoder[list[int]] = Decoder(Ids)
_rows: Decoder[list[msgspec.Raw]] = Decoder(list[msgspec.Raw])

# One decoder per shape lets msgspec check every item while it decodes; the first characters tell which.
_START = re.compile(rb"\s*(\[?)\s*(.)", re.DOTALL)
_DIGITS = b"-0123456789"

# Below this no body can hold enough items to make counting them first worth it.
SMALL = 64 * 1024

_PLACE = re.compile(r" - at `\$(.*)`$")
_MISMATCH = re.compile(r"Expected `(\w+)`, got `(\w+)`")
_KINDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a float",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
}
_SHAPES_SAY = "Send a string, a list of strings, a list of token ids or a list of lists of token ids, unmixed."


def read_input(
    raw: bytes, limits: Limits, field: str = "input", say: str = _SHAPES_SAY
) -> tuple[list[str] | None, list[TokenIds] | None]:
    """Texts, or token ids as int32 `[length]` arrays, from the JSON value `raw` of `field`; the other one is None. `say` tells who
    sends something else what to send.

    Raises `InvalidRequestError` with the place of the first bad item, `EmptyListError` and `TooManyTokensError`; no text is quoted.
    """
    in_list, first = _start(raw)
    if len(raw) > SMALL:
        _check_counts(raw, first, limits, field)
    try:
        if not in_list:
            return [_text.decode(raw)], None
        if first == b'"':
            return _counted(_texts.decode(raw), limits, field), None
        if first == b"[":
            return None, _read_rows(_counted(_rows.decode(raw), limits, field), field, say)
        if first in _DIGITS:
            return None, [np.array(_ids.decode(raw), dtype=np.int32)]
        return _texts.decode(raw), None
    except msgspec.ValidationError as error:
        raise _invalid(str(error), first, field, say=say) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(raw, error) from None


def read_texts(raw: bytes, limits: Limits, field: str, *, or_one: bool = False, beside: int = 0) -> list[str]:
    """Texts from the JSON value `raw` of `field`, which `or_one` allows to be a single one. `beside` other inputs of the request count
    towards the limit too.

    Raises `InvalidRequestError` with the place of the first bad item, and `EmptyListError`; no text is quoted.
    """
    in_list, first = _start(raw)
    if len(raw) > SMALL and first == b'"':
        _check_counts(raw, first, limits, field, beside)
    try:
        texts = [_text.decode(raw)] if or_one and not in_list else _texts.decode(raw)
    except msgspec.ValidationError as error:
        say = "Send a string or a list of strings." if or_one else "Send a list of strings."
        raise _invalid(str(error), first, field, say=say) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(raw, error) from None
    return _counted(texts, limits, field, beside)


def _start(raw: bytes) -> tuple[bytes, bytes]:
    start = _START.match(raw)
    assert start is not None
    in_list, first = start.groups()
    return in_list, first


def _read_rows(rows: list[msgspec.Raw], field: str, say: str) -> list[TokenIds]:
    # One decoder call for all rows would hold the GIL, and so /health, for tens of milliseconds on a full request.
    arrays = []
    for index, row in enumerate(rows):
        try:
            arrays.append(np.array(_ids.decode(row), dtype=np.int32))
        except msgspec.ValidationError as error:
            raise _invalid(str(error), b"[", field, f"[{index}]", say=say) from None
    return arrays


def too_many_inputs(limits: Limits, field: str = "input", beside: int = 0) -> InvalidRequestError:
    """The error for a list that is longer than `limits.max_inputs`, less what is `beside` it."""
    message = f"'{field}' has more than {limits.max_inputs - beside} items. Split them over several requests."
    return InvalidRequestError(message, field)


def _counted(items: list[Any], limits: Limits, field: str, beside: int = 0) -> list[Any]:
    if len(items) > limits.max_inputs - beside:
        raise too_many_inputs(limits, field, beside)
    return items


def strings_at_least(raw: bytes) -> int:
    """How many strings there are in the JSON `raw`, or fewer: a quote that no backslash precedes opens or closes one."""
    return (raw.count(b'"') - raw.count(b'\\"')) // 2


def _check_counts(raw: bytes, first: bytes, limits: Limits, field: str, beside: int = 0) -> None:
    """Refuse what is far over a limit before decoding it: tiny items grow to twenty times their JSON."""
    if first == b'"':
        if strings_at_least(raw) > limits.max_inputs:
            raise too_many_inputs(limits, field, beside)
    elif first in b"[" + _DIGITS:
        if raw.count(b"[") - 1 > limits.max_inputs:
            raise too_many_inputs(limits, field)
        tokens = raw.count(b",") + 1
        if tokens > limits.max_request_tokens:
            raise TooManyTokensError(
                f"Requested {tokens} tokens, max {limits.max_request_tokens} tokens per request", field
            )


def _invalid(said: str, first: bytes, field: str, row: str = "", *, say: str) -> InvalidRequestError:
    found = _PLACE.search(said)
    place = row + (found[1] if found else "")
    mismatch = _MISMATCH.match(said)
    error = InvalidRequestError
    if said.startswith("Expected `str` of length"):
        why = "the string is empty. Leave it out or send at least one character."
    elif said.startswith("Expected `array` of length"):
        why = "the list is empty. Send at least one item."
        error = EmptyListError
    elif mismatch is not None:
        expected, got = (_KINDS.get(kind, kind) for kind in mismatch.groups())
        # What comes first in a list says what the rest must be; of the first itself nothing was expected.
        rest = f"expected {expected}, " if place and first in b'["' + _DIGITS else ""
        why = f"{rest}got {got}. {say}"
    else:
        why = f"a token id is an integer from 0 to {2**31 - 1}."
    return error(f"'$.{field}{place}' is invalid: {why}", field)
