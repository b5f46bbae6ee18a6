"""The Cohere dialect: what it takes, what it refuses and in which words, what it writes."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.cohere import CohereJob, parse_v1, parse_v2
from serve_app.api.cohere_reply import cohere_error_reply, render
from serve_app.api.cohere_request import EmbedRequestV1
from serve_app.api.http import Request
from serve_app.api.models import Models
from serve_app.api.prompts import DEFAULT_PROMPTS
from serve_app.api.quantise import quantise
from serve_app.errors import DeadlineExceededError, InvalidRequestError, NonFiniteError, OverloadedError, RequestError
from serve_app.types import EmbedResult, Limits, OutputType, Priority, ServedModel, Truncate

MODEL = "Qwen/Qwen3-Embedding-0.6B"
ALIAS = "embed-multilingual-v3.0"
SERVED = ServedModel(MODEL, dimensions=1024, max_input_tokens=512, aliases=(ALIAS, "Embed-V4.0"))
LIMITS = Limits(max_input_tokens=512, max_cohere_texts=4)
BODY: dict[str, Any] = {"model": MODEL, "input_type": "search_document", "texts": ["a"]}
TYPES = "'float', 'int8', 'uint8', 'binary', 'ubinary' or 'base64'"


def v2(**fields: Any) -> CohereJob:
    return parse_v2(json.dumps({**BODY, **fields}).encode(), Models([SERVED]), LIMITS)


def v1(**fields: Any) -> CohereJob:
    return parse_v1(json.dumps({"texts": ["a"], **fields}).encode(), Models([SERVED]), LIMITS)


def refusal(body: bytes, parse: Any = parse_v2) -> tuple[int, str | None, str]:
    """Status, field, and the message as the client reads it."""
    with pytest.raises(RequestError) as caught:
        parse(body, Models([SERVED]), LIMITS)
    reply = cohere_error_reply(caught.value, request())
    said = json.loads(reply.body)
    assert list(said) == ["message", "id"]
    return reply.status, caught.value.param, said["message"]


def request() -> Request:
    return Request({"method": "POST", "path": "/v2/embed", "headers": [(b"x-request-id", b"id-1")]}, None)  # type: ignore[arg-type]


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_the_least_of_requests() -> None:
    assert v2() == CohereJob(model=MODEL, texts=["a"], truncate=Truncate.END, limit=512)
    assert v1() == CohereJob(model=MODEL, texts=["a"], truncate=Truncate.END, limit=512, version=1, plain=True)


def test_everything_at_once() -> None:
    job = v2(
        texts=["a", "b"],
        input_type="search_query",
        instruction="Find it",
        embedding_types=["ubinary", "float", "ubinary", "base64"],
        output_dimension=256,
        max_tokens=100,
        truncate="START",
        priority=7,
    )
    assert job == CohereJob(
        model=MODEL,
        texts=["a", "b"],
        prompt="Instruct: Find it\nQuery:",
        truncate=Truncate.START,
        truncate_to=100,
        dimensions=256,
        priority=Priority.BULK,
        types=("ubinary", "float", "base64"),
        limit=100,
    )


def test_null_is_as_good_as_left_out() -> None:
    optional = set(EmbedRequestV1.__struct_fields__) - {"texts"}
    assert v1(**dict.fromkeys(optional)) == v1()
    assert v2(**dict.fromkeys(optional - {"model", "input_type"})) == v2()


@pytest.mark.parametrize(
    ("input_type", "prompt"),
    [
        ("search_document", None),
        ("search_query", DEFAULT_PROMPTS["query"]),
        ("classification", DEFAULT_PROMPTS["classification"]),
        ("clustering", DEFAULT_PROMPTS["clustering"]),
    ],
)
def test_input_types_choose_the_prompt(input_type: str, prompt: str | None) -> None:
    assert v2(input_type=input_type).prompt == v1(input_type=input_type).prompt == prompt


def test_inputs_with_text_parts() -> None:
    inputs = [{"content": [part("a"), part("b")]}, {"content": [part("c")]}]
    assert v2(texts=None, inputs=inputs).texts == ["a\nb", "c"]
    assert v2(texts=None, images=[], inputs=inputs[1:]).texts == ["c"]


@pytest.mark.parametrize(("wanted", "truncate"), [("NONE", "none"), ("START", "start"), ("END", "end"), (None, "end")])
def test_truncation(wanted: str | None, truncate: str) -> None:
    assert v2(truncate=wanted).truncate == truncate


def test_more_tokens_than_the_server_takes_are_no_error() -> None:
    assert (v2(max_tokens=10**6).truncate_to, v2(max_tokens=10**6).limit) == (10**6, 512)


@pytest.mark.parametrize(("priority", "expected"), [(None, 0), (0, 0), (1, 1), (999, 1)])
def test_priority(priority: int | None, expected: int) -> None:
    assert v2(priority=priority).priority == expected


@pytest.mark.parametrize("dimensions", [32, 100, 256, 512, 1024])
def test_dimensions(dimensions: int) -> None:
    assert v2(output_dimension=dimensions).dimensions == dimensions


@pytest.mark.parametrize("name", [ALIAS, ALIAS.upper(), "embed-v4.0", "Qwen3-Embedding-0.6B"])
def test_names_of_the_model(name: str) -> None:
    assert v2(model=name).model == v1(model=name).model == MODEL


def test_an_alias_is_nobody_else_s_name() -> None:
    other = ServedModel(ALIAS, 8, 8)
    assert Models([SERVED, other]).find(ALIAS) is other


DIMENSIONS = f"'output_dimension' must be from 32 to 1024 for the model '{MODEL}'."
PACKING = (
    "'binary' packs eight dimensions into a byte, and 100 isn't a multiple of eight. Ask for 96 or 104 dimensions, or for "
    "another type."
)
NO_IMAGES = "this model embeds text only: send 'texts', or 'inputs' with parts of type text"
EMPTY = "inputs contains an element that is the empty string at index 1"
INPUTS = '\'inputs\' must be a list of objects like {"content": [{"type": "text", "text": "..."}]}, with no empty text'
ONE_OF = "exactly one of 'texts' and 'inputs' must be provided"
NO_INPUT_TYPE = "invalid request: valid input_type must be provided with the provided model"
INPUT_TYPES = (
    "'input_type' must be 'search_query', 'search_document', 'classification', 'clustering', 'query', "
    "'document' or 'passage'"
)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"texts": ["a"] * 5}, "texts", "total number of texts must be at most 4 - received 5"),
        ({"texts": ["a", ""]}, "texts", EMPTY),
        ({"texts": []}, "texts", "'texts' is empty: send at least one"),
        ({"texts": "a"}, "texts", "'texts' must be a list of strings"),
        ({"texts": ["a", 1]}, "texts", "'texts' must be a list of strings"),
        ({"texts": None}, "texts", ONE_OF),
        ({"inputs": [{"content": [part("a")]}]}, "texts", ONE_OF),
        (
            {"texts": None, "inputs": [{"content": [part("a")]}] * 5},
            "inputs",
            "total number of inputs must be at most 4 - received 5",
        ),
        ({"texts": None, "inputs": []}, "inputs", "'inputs' is empty: send at least one"),
        ({"texts": None, "inputs": ["a"]}, "inputs", INPUTS),
        ({"texts": None, "inputs": [{"content": []}]}, "inputs", INPUTS),
        (
            {"texts": None, "inputs": [{"content": [part("a")]}, {"content": [part("b")], "input_type": "clustering"}]},
            "inputs",
            "unknown field: parameter 'inputs[1].input_type' is not a valid field",
        ),
        (
            {"texts": None, "inputs": [{"content": [{**part("a"), "x" * 99: 1}]}]},
            "inputs",
            f"unknown field: parameter 'inputs[0].content[0].{'x' * 64}' is not a valid field",
        ),
        ({"texts": None, "inputs": [{"content": [part("")]}]}, "inputs", INPUTS),
        ({"texts": None, "inputs": [{"content": [{"type": "audio"}]}]}, "inputs", INPUTS),
        (
            {"texts": None, "inputs": [{"content": [part("a"), {"type": "text"}]}]},
            "inputs",
            "inputs[0].content[1] is of type text but has no 'text'",
        ),
        (
            {"texts": None, "inputs": [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            "inputs",
            NO_IMAGES,
        ),
        ({"images": ["data:image/png;base64,AAAA"]}, "images", NO_IMAGES),
        ({"texts": None, "images": ["data:image/png;base64,AAAA"], "input_type": "image"}, "input_type", NO_IMAGES),
        ({"images": [[]]}, "images", NO_IMAGES),
        ({"images": ""}, "images", NO_IMAGES),
        ({"input_type": "image"}, "input_type", NO_IMAGES),
        ({"input_type": None}, "input_type", INPUT_TYPES),
        ({"input_type": "search"}, "input_type", INPUT_TYPES),
        (
            {"instruction": "x"},
            "instruction",
            "'instruction' is for queries, and the 'input_type' says documents. Remove one of them.",
        ),
        (
            {"instruction": "x" * 4097, "input_type": "search_query"},
            "instruction",
            "'instruction' must be a string of at most 4096 characters",
        ),
        ({"embedding_types": ["int4"]}, "embedding_types", f"'embedding_types' must be a list of {TYPES}"),
        ({"embedding_types": "float"}, "embedding_types", f"'embedding_types' must be a list of {TYPES}"),
        ({"output_dimension": 1536}, "output_dimension", DIMENSIONS),
        ({"output_dimension": 31}, "output_dimension", DIMENSIONS),
        ({"output_dimension": "256"}, "output_dimension", "'output_dimension' must be an integer"),
        ({"output_dimension": 100, "embedding_types": ["float", "binary"]}, "output_dimension", PACKING),
        ({"max_tokens": 0}, "max_tokens", "'max_tokens' must be an integer above 0"),
        ({"truncate": "end"}, "truncate", "'truncate' must be 'NONE', 'START' or 'END'"),
        ({"priority": 1000}, "priority", "'priority' must be an integer from 0 to 999"),
        ({"model": 1}, "model", "'model' must be a string"),
        ({"x" * 99: 1}, "x" * 64, f"unknown field: parameter '{'x' * 64}' is not a valid field"),
    ],
)
def test_bad_fields(fields: dict[str, Any], param: str, message: str) -> None:
    assert refusal(json.dumps({**BODY, **fields}).encode()) == (400, param, f"invalid request: {message}")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"input_type":"clustering","texts":["a"]}', "model", "invalid request: 'model' must be provided"),
        (b'{"model":"%b","texts":["a"]}' % MODEL.encode(), "input_type", NO_INPUT_TYPE),
        (b"[]", None, "invalid request: the body must be a JSON object with 'model', 'input_type' and 'texts'"),
        (b"", None, "invalid json syntax: it is empty"),
        (b'{"texts":', None, "invalid json syntax: it is not valid JSON"),
        (b'{"model":"\xff"}', None, "invalid json syntax: it is not valid UTF-8"),
        (b'{"texts":' + b"[" * 100_000, None, "invalid json syntax: it is nested too deeply"),
    ],
)
def test_bad_bodies(body: bytes, param: str | None, message: str) -> None:
    assert refusal(body) == (400, param, message)


@pytest.mark.parametrize("text", [b'"\\ud800"', b"'a'", b"NaN"])
@pytest.mark.parametrize("field", [b'"texts":[%b]', b'"inputs":[{"content":[{"type":"text","text":%b}]}]'])
def test_bad_json_in_the_texts(field: bytes, text: bytes) -> None:
    body = b'{"model":"%b","input_type":"clustering",%b}' % (MODEL.encode(), field % text)
    assert refusal(body) == (400, None, "invalid json syntax: it is not valid JSON")


@pytest.mark.parametrize("parse", [parse_v1, parse_v2])
def test_unknown_models(parse: Any) -> None:
    message = (
        "model 'embed-english-v3.0' not found, make sure the correct model ID was used and that you have access to the model. "
        f"Served here: '{MODEL}'; the setting model_aliases gives it other names."
    )
    body = json.dumps({**BODY, "model": "embed-english-v3.0"}).encode()
    assert refusal(body, parse) == (404, "model", message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"texts": ["a" * 20] * 5000}, "total number of texts must be at most 4 - received more than 4"),
        (
            {"texts": None, "inputs": [{"content": [part("a")]}] * 5000},
            "total number of inputs must be at most 4 - received too many parts",
        ),
    ],
)
def test_what_is_far_too_much_is_counted_before_it_is_decoded(fields: dict[str, Any], message: str) -> None:
    body = json.dumps({**BODY, **fields}).encode()
    assert refusal(body)[2] == f"invalid request: {message}"


NAMES = [
    "model",
    "input_type",
    "texts",
    "inputs",
    "images",
    "embedding_types",
    "max_tokens",
    "truncate",
    "instruction",
    "x",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([MODEL, "float", "END", "image"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["content", "type", "text"]) | st.text(), inner),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.binary(max_size=4), st.integers(0, 80))
def test_no_body_breaks_it(fields: dict[str, Any], noise: bytes, place: int) -> None:
    plain = json.dumps({**BODY, **fields}).encode()
    for body in (plain, plain[:place] + noise + plain[place + len(noise) :]):
        for parse in (parse_v1, parse_v2):
            with contextlib.suppress(RequestError):
                parse(body, Models([SERVED]), LIMITS)


def test_large_texts_are_not_many() -> None:
    text = 'say "hello" \\ "type" ' * 4000
    assert v2(texts=[text, text]).texts == [text, text]
    assert v2(texts=None, inputs=[{"content": [part(text)]}]).texts == [text]


def test_no_refusal_quotes_a_text() -> None:
    secret = "my-secret-text"
    for fields in (
        {"texts": [secret, 1]},
        {"texts": [secret, ""]},
        {"texts": {secret: 1}},
        {"texts": None, "inputs": [{"content": [{**part(secret), "type": secret}]}]},
        {"images": [secret]},
    ):
        assert secret not in refusal(json.dumps({**BODY, **fields}).encode())[2]


VECTORS = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32) / 8


def test_all_types_at_once() -> None:
    kinds = ["base64", "float", "int8", "uint8", "binary", "ubinary"]
    job = v2(texts=["a", "b\u2028", '"'], embedding_types=kinds)
    reply = json.loads(render(EmbedResult(VECTORS, 17), job, 'an "id"'))
    vectors = reply.pop("embeddings")
    assert reply == {
        "id": 'an "id"',
        "texts": ["a", "b\u2028", '"'],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 17}},
        "response_type": "embeddings_by_type",
    }
    assert list(vectors) == kinds
    assert np.array_equal([np.frombuffer(base64.b64decode(row), "<f4") for row in vectors.pop("base64")], VECTORS)
    for kind, rows in vectors.items():
        assert np.array_equal(np.array(rows, np.float32), quantise(VECTORS, OutputType(kind)))
        assert kind == "float" or all(isinstance(number, int) for row in rows for number in row)


def test_v1_without_types_is_a_plain_list() -> None:
    reply = json.loads(render(EmbedResult(VECTORS, 17), v1(texts=["a", "b", "c"]), "id"))
    assert np.array_equal(np.array(reply.pop("embeddings"), np.float32), VECTORS)
    assert reply == {
        "id": "id",
        "texts": ["a", "b", "c"],
        "meta": {"api_version": {"version": "1"}, "billed_units": {"input_tokens": 17}},
        "response_type": "embeddings_floats",
    }
    typed = json.loads(render(EmbedResult(VECTORS, 17), v1(texts=["a", "b", "c"], embedding_types=["float"]), "id"))
    assert typed["response_type"] == "embeddings_by_type"
    assert list(typed["embeddings"]) == ["float"]


@pytest.mark.parametrize(("truncate", "side"), [("START", "start"), ("END", "end")])
def test_what_was_truncated_is_said(truncate: str, side: str) -> None:
    job = v2(texts=["a", "b", "c"], truncate=truncate, max_tokens=300)
    job.truncated = 2
    assert json.loads(render(EmbedResult(VECTORS, 17), job, "id"))["meta"]["warnings"] == [
        f"2 of 3 inputs had more than 300 tokens and lost their {side}. Send truncate=NONE to have such requests refused."
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("job", [v1(), v2(), v2(embedding_types=["int8"])])
def test_a_vector_that_is_not_finite_is_never_written(value: float, job: CohereJob) -> None:
    with pytest.raises(NonFiniteError):
        render(EmbedResult(np.full((1, 64), value, np.float32), 1), job, "id")


def error_with(status: int, code: str | None) -> RequestError:
    error = InvalidRequestError("as it is", code=code)
    error.status = status
    return error


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (error_with(400, None), 400, "invalid request: as it is"),
        (error_with(401, "invalid_api_key"), 401, "invalid api token"),
        (error_with(401, None), 401, "no api key supplied"),
        (error_with(413, None), 413, "as it is"),
        (error_with(422, None), 422, "as it is"),
        (DeadlineExceededError("Too late."), 504, "Too late."),
        (OverloadedError("Full.", 2.5), 429, "Full."),
    ],
)
def test_errors_in_cohere_s_words(error: RequestError, status: int, message: str) -> None:
    reply = cohere_error_reply(error, request())
    assert (reply.status, orjson.loads(reply.body)) == (status, {"message": message, "id": "id-1"})
    assert (b"retry-after" in dict(reply.headers)) is (status in (429, 504))
