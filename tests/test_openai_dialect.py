"""The OpenAI dialect: what it takes, what it refuses and in which words, what it writes."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from serve_app.api.models import Models
from serve_app.api.openai import EmbeddingsJob, EmbeddingsRequest, parse
from serve_app.api.openai_reply import render
from serve_app.api.quantise import quantise
from serve_app.errors import NonFiniteError, RequestError
from serve_app.types import (
    EmbedResult,
    Limits,
    OutputType,
    Priority,
    ServedModel,
    Truncate,
)

MODEL = "Qwen/Qwen3-Embedding-0.6B"
MODELS = Models([ServedModel(MODEL, dimensions=1024, max_input_tokens=512)])
LIMITS = Limits(max_input_tokens=512, max_inputs=4, max_request_tokens=100_000)
SHAPES = " Send a string, a list of strings, a list of token ids or a list of lists of token ids, unmixed."
FORMATS = (
    "'float', 'base64', 'float16', 'int8', 'uint8', 'binary', 'ubinary', 'base64_float16', 'base64_int8', "
    "'base64_uint8', 'base64_binary', 'base64_ubinary', 'bytes' or 'bytes_only'"
)
INPUT_TYPES_SAY = "'search_query', 'search_document', 'classification', 'clustering', 'query', 'document' or 'passage'"
NOT_PARSED = "We could not parse the JSON body of your request: "


def read(body: bytes, limits: Limits = LIMITS) -> EmbeddingsJob:
    return parse(body, MODELS, limits)


def ask(**fields: Any) -> EmbeddingsJob:
    return read(json.dumps({"input": "a", "model": MODEL, **fields}).encode())


def refusal(body: bytes, limits: Limits = LIMITS) -> tuple[int, str, str | None, str | None, str]:
    with pytest.raises(RequestError) as caught:
        read(body, limits)
    error = caught.value
    return error.status, error.type, error.param, error.code, error.message


def bad_request(param: str | None, message: str) -> tuple[int, str, str | None, None, str]:
    return 400, "invalid_request_error", param, None, message


def with_input(value: str) -> bytes:
    return f'{{"input":{value},"model":"{MODEL}"}}'.encode()


def test_a_text() -> None:
    assert ask(input="hello") == EmbeddingsJob(model=MODEL, texts=["hello"])


def test_everything_at_once() -> None:
    job = ask(
        input=["a", "b"],
        dimensions=32,
        encoding_format="base64",
        user="someone",
        instruction="Find the answer",
        truncate="start",
        truncate_prompt_tokens=10,
        priority="bulk",
    )
    assert job == EmbeddingsJob(
        model=MODEL,
        texts=["a", "b"],
        prompt="Instruct: Find the answer\nQuery:",
        truncate=Truncate.START,
        truncate_to=10,
        dimensions=32,
        base64=True,
        priority=Priority.BULK,
    )


def test_null_is_as_good_as_left_out() -> None:
    optional = set(EmbeddingsRequest.__struct_fields__) - {"input", "model"}
    assert ask(**dict.fromkeys(optional)) == ask()


@pytest.mark.parametrize(("value", "expected"), [([5, 6], [[5, 6]]), ([[5], [6, 2**31 - 1]], [[5], [6, 2**31 - 1]])])
def test_token_ids(value: Any, expected: list[list[int]]) -> None:
    job = ask(input=value)
    assert job.texts is None
    assert job.token_ids is not None
    assert [ids.tolist() for ids in job.token_ids] == expected
    assert {ids.dtype for ids in job.token_ids} == {np.dtype(np.int32)}


@pytest.mark.parametrize("text", ["\x00", "\u2028", "😀", " ", '"],"', "\\", "\ud83d\ude00"])
def test_odd_texts_arrive_unchanged(text: str) -> None:
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16")
    assert read(with_input(json.dumps([text]))).texts == [expected]


def test_whitespace_and_escaped_names_are_json_too() -> None:
    assert read(f'\n{{"inp\\u0075t" : [\t"a" , "b"\r] , "model":"{MODEL}"}} '.encode()).texts == ["a", "b"]


def test_the_last_of_duplicate_keys_counts() -> None:
    assert read(f'{{"input":"a","input":"b","model":"{MODEL}"}}'.encode()).texts == ["b"]


@pytest.mark.parametrize(
    ("fields", "truncate", "truncate_to"),
    [
        ({}, Truncate.NONE, None),
        ({"truncate": "end"}, Truncate.END, None),
        ({"truncate_prompt_tokens": 5}, Truncate.END, 5),
        ({"truncate_prompt_tokens": -1}, Truncate.END, None),
        ({"truncate_prompt_tokens": 512, "truncate": "start"}, Truncate.START, 512),
    ],
)
def test_truncation(fields: dict[str, Any], truncate: Truncate, truncate_to: int | None) -> None:
    job = ask(**fields)
    assert (job.truncate, job.truncate_to) == (truncate, truncate_to)


def test_an_empty_instruction_is_none() -> None:
    assert ask(instruction="").prompt is None
    assert ask(input=[1], instruction="").prompt is None


@pytest.mark.parametrize("name", [MODEL, MODEL.upper(), "qwen3-embedding-0.6b"])
def test_names_of_a_hub_model(name: str) -> None:
    assert ask(model=name).model == MODEL


@pytest.mark.parametrize("name", ["/data/My-Model", "/data/my-model/", "MY-MODEL", "Qwen/my-model"])
def test_names_of_a_local_folder(name: str) -> None:
    served = ServedModel("/data/My-Model", 1024, 512)
    assert Models([served]).find(name) is served


@pytest.mark.parametrize("name", ["gpt", "", "other/Qwen3-Embedding-0.6B", "a/b/Qwen3-Embedding-0.6B"])
def test_unknown_model(name: str) -> None:
    body = json.dumps({"input": "a", "model": name}).encode()
    message = f"The model '{name}' is not served here. Served: '{MODEL}'."
    assert refusal(body) == (404, "invalid_request_error", "model", "model_not_found", message)


@pytest.mark.parametrize(
    ("value", "place", "why"),
    [
        ('""', "", "the string is empty. Leave it out or send at least one character."),
        ('["a",""]', "[1]", "the string is empty. Leave it out or send at least one character."),
        ("[]", "", "the list is empty. Send at least one item."),
        ("[[]]", "[0]", "the list is empty. Send at least one item."),
        ("[[1],[]]", "[1]", "the list is empty. Send at least one item."),
        ('["a",1]', "[1]", "expected a string, got an integer." + SHAPES),
        ('["a",null]', "[1]", "expected a string, got null." + SHAPES),
        ('["a",["b"]]', "[1]", "expected a string, got a list." + SHAPES),
        ('[1,"a"]', "[1]", "expected an integer, got a string." + SHAPES),
        ("[1,true]", "[1]", "expected an integer, got a boolean." + SHAPES),
        ("[1,2.0]", "[1]", "expected an integer, got a float." + SHAPES),
        ("[1,[2]]", "[1]", "expected an integer, got a list." + SHAPES),
        ("[[1],2]", "[1]", "expected a list, got an integer." + SHAPES),
        ('[[1],["a"]]', "[1][0]", "expected an integer, got a string." + SHAPES),
        ("[[[1]]]", "[0][0]", "expected an integer, got a list." + SHAPES),
        ("[" * 300 + "]" * 300, "[0][0]", "expected an integer, got a list." + SHAPES),
        ("[-1]", "[0]", "a token id is an integer from 0 to 2147483647."),
        ("[1,2147483648]", "[1]", "a token id is an integer from 0 to 2147483647."),
        ("[[1],[2," + "9" * 5000 + "]]", "[1][1]", "a token id is an integer from 0 to 2147483647."),
        ("[1e999]", "[0]", "a token id is an integer from 0 to 2147483647."),
        ("[true]", "[0]", "got a boolean." + SHAPES),
        ("[null]", "[0]", "got null." + SHAPES),
        ("[{}]", "[0]", "got an object." + SHAPES),
        ("null", "", "got null." + SHAPES),
        ("true", "", "got a boolean." + SHAPES),
        ("1", "", "got an integer." + SHAPES),
        ("1.5", "", "got a float." + SHAPES),
        ('{"text":"a"}', "", "got an object." + SHAPES),
    ],
)
def test_bad_input(value: str, place: str, why: str) -> None:
    assert refusal(with_input(value)) == bad_request("input", f"'$.input{place}' is invalid: {why}")


@pytest.mark.parametrize(
    "value",
    [
        '["a","a","a","a","a"]',
        "[[1],[1],[1],[1],[1]]",
        "[" + ", ".join(['"' + "a" * 50 + '"'] * 2000) + "]",
        "[" + ",".join(['"\\\\\\""'] * 20000) + "]",
        "[" + ",".join(["[]"] * 30000) + "]",
    ],
)
def test_too_many_inputs(value: str) -> None:
    message = "'input' has more than 4 items. Split them over several requests."
    assert refusal(with_input(value)) == bad_request("input", message)


def test_quotes_in_a_large_text_are_not_counted_as_inputs() -> None:
    text = 'say "hello" \\' * 10_000
    assert read(with_input(json.dumps([text, text]))).texts == [text, text]


@pytest.mark.parametrize("value", ["[" + "1," * 100_000 + "1]", "[[1],[" + "1," * 99_999 + "1]]"])
def test_too_many_token_ids(value: str) -> None:
    word = "max_tokens_per_request"
    message = "Requested 100001 tokens, max 100000 tokens per request"
    assert refusal(with_input(value)) == (400, word, "input", word, message)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"dimensions": 31}, "dimensions", f"'dimensions' must be from 32 to 1024 for the model '{MODEL}'."),
        ({"dimensions": 1025}, "dimensions", f"'dimensions' must be from 32 to 1024 for the model '{MODEL}'."),
        ({"dimensions": -1}, "dimensions", f"'dimensions' must be from 32 to 1024 for the model '{MODEL}'."),
        ({"dimensions": 64.0}, "dimensions", "'dimensions' must be an integer."),
        ({"dimensions": True}, "dimensions", "'dimensions' must be an integer."),
        ({"dimensions": "64"}, "dimensions", "'dimensions' must be an integer."),
        ({"encoding_format": "int4"}, "encoding_format", f"'encoding_format' must be {FORMATS}."),
        ({"user": 5}, "user", "'user' must be a string."),
        ({"model": None}, "model", "'model' must be a string."),
        ({"instruction": ["a"]}, "instruction", "'instruction' must be a string of at most 4096 characters."),
        ({"instruction": "a" * 4097}, "instruction", "'instruction' must be a string of at most 4096 characters."),
        ({"prompt_name": 1}, "prompt_name", "'prompt_name' must be a string."),
        ({"input_type": "image"}, "input_type", f"'input_type' must be {INPUT_TYPES_SAY}."),
        (
            {"encoding_format": "binary", "dimensions": 100},
            "dimensions",
            "'binary' packs eight dimensions into a byte, and 100 isn't a multiple of eight. Ask for 96 or 104 dimensions, "
            "or for another type.",
        ),
        ({"truncate": True}, "truncate", "'truncate' must be 'none', 'start' or 'end'."),
        ({"truncate": "END"}, "truncate", "'truncate' must be 'none', 'start' or 'end'."),
        ({"priority": 1}, "priority", "'priority' must be 'interactive' or 'bulk'."),
        (
            {"truncate_prompt_tokens": "5"},
            "truncate_prompt_tokens",
            "'truncate_prompt_tokens' must be a positive integer, or -1 for the model's maximum.",
        ),
        (
            {"truncate_prompt_tokens": -2},
            "truncate_prompt_tokens",
            "'truncate_prompt_tokens' must be a positive integer, or -1 for the model's maximum.",
        ),
        (
            {"truncate_prompt_tokens": 0},
            "truncate_prompt_tokens",
            "'truncate_prompt_tokens' must be from 1 to 512, or -1.",
        ),
        (
            {"truncate_prompt_tokens": 513},
            "truncate_prompt_tokens",
            "'truncate_prompt_tokens' must be from 1 to 512, or -1.",
        ),
        (
            {"truncate_prompt_tokens": 5, "truncate": "none"},
            "truncate_prompt_tokens",
            "'truncate_prompt_tokens' contradicts 'truncate': 'none'. Remove one of them.",
        ),
        (
            {"input": [1], "instruction": "Find"},
            "instruction",
            "'instruction' needs text input: it can't be put before token ids.",
        ),
        ({"inputs": "a"}, "inputs", "The field 'inputs' is not supported. Send the texts in 'input'."),
        ({"texts": ["a"]}, "texts", "The field 'texts' is not supported. Send the texts in 'input'."),
        ({"stream": True}, "stream", "The field 'stream' is not supported. Remove it."),
        (
            {"output_dtype": "int8"},
            "output_dtype",
            "The field 'output_dtype' is not supported. Use 'encoding_format' instead, with 'base64_int8' for base64 of "
            "int8.",
        ),
        ({"x" * 99: 1}, "x" * 64, f"The field '{'x' * 64}' is not supported. Remove it."),
    ],
)
def test_bad_field(fields: dict[str, Any], param: str, message: str) -> None:
    body = json.dumps({"input": "a", "model": MODEL, **fields}).encode()
    assert refusal(body) == bad_request(param, message)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"model":"m"}', "input", "You must provide 'input'."),
        (b'{"input":"a"}', "model", "You must provide 'model'."),
        (b"[]", None, "The JSON body must be an object with 'input' and 'model'."),
        (b"null", None, "The JSON body must be an object with 'input' and 'model'."),
        (b"", None, NOT_PARSED + "it is empty."),
        (b" \n", None, NOT_PARSED + "it is empty."),
        (b'{"input":', None, NOT_PARSED + "it is not valid JSON."),
        (with_input('"a"') + b"x", None, NOT_PARSED + "it is not valid JSON."),
        (with_input("NaN"), None, NOT_PARSED + "it is not valid JSON."),
        (with_input("[1,NaN]"), None, NOT_PARSED + "it is not valid JSON."),
        (with_input("'a'"), None, NOT_PARSED + "it is not valid JSON."),
        (with_input('"\\ud800"'), None, NOT_PARSED + "it is not valid JSON."),
        (with_input('["\\ude00\\ud83d"]'), None, NOT_PARSED + "it is not valid JSON."),
        (b"\xef\xbb\xbf" + with_input('"a"'), None, NOT_PARSED + "it starts with a byte order mark."),
        (with_input('"a"').decode().encode("utf-16"), None, NOT_PARSED + "it is not valid JSON."),
        (b'{"input":"\xff","model":"' + MODEL.encode() + b'"}', None, NOT_PARSED + "it is not valid UTF-8."),
        (b'{"input":"\xed\xa0\x80","model":"' + MODEL.encode() + b'"}', None, NOT_PARSED + "it is not valid UTF-8."),
        (b'{"input":"a","model":"\xff"}', None, NOT_PARSED + "it is not valid UTF-8."),
        (with_input("[" * 100_000), None, NOT_PARSED + "it is nested too deeply."),
    ],
)
def test_bad_body(body: bytes, param: str | None, message: str) -> None:
    assert refusal(body) == bad_request(param, message)


def test_no_refusal_quotes_a_text() -> None:
    secret = "my-secret-text"
    for value in (f'["{secret}",1]', f'["{secret}",""]', f'{{"{secret}":1}}', f'[1,"{secret}"]', f'"{secret}'):
        assert secret not in refusal(with_input(value))[-1]


VECTORS = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)


@pytest.mark.parametrize("vectors", [VECTORS, VECTORS[:, :8], VECTORS[::2], VECTORS.astype(">f4")])
def test_rendered_vectors_are_exact(vectors: Any) -> None:
    result = EmbedResult(vectors, prompt_tokens=17)
    plain = json.loads(render(result, EmbeddingsJob('a"b')))
    packed = json.loads(render(result, EmbeddingsJob('a"b', base64=True)))
    numbers = np.array([item.pop("embedding") for item in plain["data"]], dtype=np.float32)
    raw = [np.frombuffer(base64.b64decode(item.pop("embedding")), dtype="<f4") for item in packed["data"]]
    assert np.array_equal(numbers, vectors)
    assert np.array_equal(raw, vectors)
    assert plain == packed
    assert plain == {
        "object": "list",
        "data": [{"object": "embedding", "index": i} for i in range(len(vectors))],
        "model": 'a"b',
        "usage": {"prompt_tokens": 17, "total_tokens": 17},
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("base64", [False, True])
@pytest.mark.parametrize("output_type", list(OutputType))
def test_a_vector_that_is_not_finite_is_never_written(value: float, output_type: OutputType, base64: bool) -> None:
    vectors = np.full((1, 4), value, dtype=np.float32)
    with pytest.raises(NonFiniteError):
        render(EmbedResult(vectors, 1), EmbeddingsJob(MODEL, output_type=output_type, base64=base64))


NUMBERS = {
    "float16": "<f2",
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_quantised_vectors_as_numbers_and_as_base64(name: str) -> None:
    expected = quantise(VECTORS, OutputType(name))
    plain = json.loads(render(EmbedResult(VECTORS, 1), ask(encoding_format=name)))
    packed = json.loads(render(EmbedResult(VECTORS, 1), ask(encoding_format=f"base64_{name}")))
    numbers = np.array([item["embedding"] for item in plain["data"]], dtype=NUMBERS[name])
    raw = [np.frombuffer(base64.b64decode(item["embedding"]), dtype=NUMBERS[name]) for item in packed["data"]]
    assert np.array_equal(numbers, expected)
    assert np.array_equal(raw, expected)
    whole = all(isinstance(number, int) for item in plain["data"] for number in item["embedding"])
    assert whole is (name != "float16")
