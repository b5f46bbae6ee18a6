"""TEI's dialect: what each body asks for, and what is refused in which words."""

# ruff: noqa: E501 - tables of messages, one case a line

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serve_app.api.models import Models
from serve_app.api.prompts import prompt_for
from serve_app.api.tei import parse_embed, parse_embed_all, parse_similarity
from serve_app.errors import EmptyListError, InvalidRequestError, RequestError, TooManyTokensError
from serve_app.types import EmbedJob, Limits, Output, ServedModel, Truncate

MODEL = ServedModel("Qwen/Qwen3-Embedding-0.6B", 64, 512, prompts={"query": "find: "})
MODELS = Models([MODEL])
LIMITS = Limits(max_inputs=3, max_request_tokens=600)
SHAPES_SAY = "Send a string, a list of strings, a list of token ids or a list of lists of token ids, unmixed."


def embed(**fields: Any) -> EmbedJob:
    return parse_embed(json.dumps({"inputs": "a", **fields}).encode(), MODELS, LIMITS)


def similarity(inputs: object, **fields: Any) -> EmbedJob:
    return parse_similarity(json.dumps({"inputs": inputs, **fields}).encode(), MODELS, LIMITS)


@pytest.mark.parametrize(
    ("inputs", "texts", "token_ids"),
    [
        ("a", ["a"], None),
        (["a", "b"], ["a", "b"], None),
        ([1, 2], None, [[1, 2]]),
        ([[1], [2, 3]], None, [[1], [2, 3]]),
    ],
)
@pytest.mark.parametrize("parse", [parse_embed, parse_embed_all])
def test_the_four_shapes(parse: Any, inputs: object, texts: object, token_ids: object) -> None:
    job = parse(json.dumps({"inputs": inputs}).encode(), MODELS, LIMITS)
    assert job.model == MODEL.id
    assert job.texts == texts
    assert (None if job.token_ids is None else [ids.tolist() for ids in job.token_ids]) == token_ids
    assert all(ids.dtype == np.int32 for ids in job.token_ids or ())


def test_what_is_left_out_changes_nothing() -> None:
    for job in (
        embed(),
        embed(
            normalize=None,
            truncate=None,
            truncation_direction=None,
            prompt_name=None,
            dimensions=None,
            instruction=None,
        ),
    ):
        assert (job.prompt, job.truncate, job.dimensions, job.output) == (None, Truncate.NONE, None, Output.POOLED)
    assert embed(normalize=True, truncate=False) == embed()


@pytest.mark.parametrize(
    ("fields", "truncate"),
    [
        ({"truncate": True}, Truncate.END),
        ({"truncate": True, "truncation_direction": "right"}, Truncate.END),
        ({"truncate": True, "truncation_direction": "Right"}, Truncate.END),
        ({"truncate": True, "truncation_direction": "left"}, Truncate.START),
        ({"truncate": True, "truncation_direction": "Left"}, Truncate.START),
        ({"truncate": False, "truncation_direction": "left"}, Truncate.NONE),
        ({"truncation_direction": "left"}, Truncate.NONE),
    ],
)
def test_truncation_only_when_asked(fields: dict[str, Any], truncate: Truncate) -> None:
    assert embed(**fields).truncate is truncate
    assert similarity({"source_sentence": "a", "sentences": ["b"]}, parameters=fields).truncate is truncate


def test_prompts() -> None:
    assert embed(prompt_name="query").prompt == "find: "
    assert embed(prompt_name="document").prompt is None
    assert embed(instruction="Find it").prompt == prompt_for("Find it")
    pair = {"source_sentence": "a", "sentences": ["b"]}
    assert similarity(pair, parameters={"prompt_name": "query"}).prompt == "find: "
    assert similarity(pair, parameters={"instruction": "Find it"}).prompt == prompt_for("Find it")


def test_dimensions() -> None:
    assert embed(dimensions=32).dimensions == 32


def test_all_tokens() -> None:
    job = parse_embed_all(b'{"inputs": "a", "prompt_name": "query", "truncate": true}', MODELS, LIMITS)
    assert (job.output, job.prompt, job.truncate) == (Output.TOKENS, "find: ", Truncate.END)


def test_the_source_is_the_first_of_the_texts() -> None:
    job = similarity({"source_sentence": "a", "sentences": ["b", "c"]})
    assert (job.texts, job.output) == (["a", "b", "c"], Output.POOLED)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"inputs": ""}, "'$.inputs' is invalid: the string is empty. Leave it out or send at least one character.", "inputs"),
        ({"inputs": ["a", ""]}, "'$.inputs[1]' is invalid: the string is empty. Leave it out or send at least one character.", "inputs"),
        ({"inputs": ["a", [1]]}, f"'$.inputs[1]' is invalid: expected a string, got a list. {SHAPES_SAY}", "inputs"),
        ({"inputs": {"a": 1}}, f"'$.inputs' is invalid: got an object. {SHAPES_SAY}", "inputs"),
        ({"inputs": None}, f"'$.inputs' is invalid: got null. {SHAPES_SAY}", "inputs"),
        ({"inputs": [-1]}, "'$.inputs[0]' is invalid: a token id is an integer from 0 to 2147483647.", "inputs"),
        ({"inputs": ["a"] * 4}, "'inputs' has more than 3 items. Split them over several requests.", "inputs"),
        ({"normalize": False}, "'normalize' can't be false: this server's vectors are L2-normalised where they are computed. Remove it.", "normalize"),
        ({"normalize": 1}, "'normalize' must be true or left out.", "normalize"),
        ({"truncate": "yes"}, "'truncate' must be true or false.", "truncate"),
        ({"truncation_direction": "up"}, "'truncation_direction' must be 'left' or 'right'.", "truncation_direction"),
        ({"prompt_name": 1}, "'prompt_name' must be a string.", "prompt_name"),
        ({"instruction": 1}, "'instruction' must be a string of at most 4096 characters.", "instruction"),
        ({"instruction": "x" * 4097}, "'instruction' must be a string of at most 4096 characters.", "instruction"),
        ({"inputs": [1], "instruction": "x"}, "'instruction' needs text input: it can't be put before token ids.", "instruction"),
        ({"dimensions": 65}, "'dimensions' must be from 32 to 64 for the model 'Qwen/Qwen3-Embedding-0.6B'.", "dimensions"),
        ({"dimensions": "64"}, "'dimensions' must be an integer.", "dimensions"),
        ({"encoding_format": "float"}, "The field 'encoding_format' is not supported. Vectors are JSON numbers here; POST /v1/embeddings writes base64 too.", "encoding_format"),
        ({"model": "a"}, "The field 'model' is not supported. Remove it: this API has one model, see GET /info.", "model"),
        ({"input": "a"}, "The field 'input' is not supported. Send the texts in 'inputs'.", "input"),
        ({"texts": ["a"]}, "The field 'texts' is not supported. Send the texts in 'inputs'.", "texts"),
        ({"input_type": "query"}, "The field 'input_type' is not supported. Use 'prompt_name' instead, with 'query' or 'document'.", "input_type"),
        ({"parameters": {}}, "The field 'parameters' is not supported. Send its fields beside 'inputs', or sentences to be compared to POST /similarity.", "parameters"),
        ({"secret": 1}, "The field 'secret' is not supported. Remove it.", "secret"),
    ],
)  # fmt: skip
def test_refused(fields: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        embed(**fields)
    assert (caught.value.message, caught.value.param) == (message, param)


@pytest.mark.parametrize("name", ["prompt_name", "instruction"])
def test_an_unknown_or_contradicted_prompt_is_refused_by_its_field(name: str) -> None:
    both = {"prompt_name": "query" if name == "instruction" else "sing", "instruction": None}
    if name == "instruction":
        both["instruction"] = "x"
    with pytest.raises(InvalidRequestError) as caught:
        embed(**both)
    assert caught.value.param == "prompt_name"
    assert "sing" not in caught.value.message


@pytest.mark.parametrize("inputs", [[], [[1], []]])
def test_empty_lists(inputs: object) -> None:
    with pytest.raises(EmptyListError, match=r"the list is empty\. Send at least one item\.") as caught:
        embed(inputs=inputs)
    assert caught.value.param == "inputs"


def test_more_tokens_than_a_request_may_have_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(TooManyTokensError, match="Requested 50000 tokens, max 600 tokens per request") as caught:
        embed(inputs=[11] * 50_000)
    assert caught.value.param == "inputs"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "We could not parse the JSON body of your request: it is empty."),
        (b"{", "We could not parse the JSON body of your request: it is not valid JSON."),
        (b'{"inputs": "\xff"}', "We could not parse the JSON body of your request: it is not valid UTF-8."),
        (b"\xef\xbb\xbf{}", "We could not parse the JSON body of your request: it starts with a byte order mark."),
        (b'{"inputs":' + b"[" * 100_000, "We could not parse the JSON body of your request: it is nested too deeply."),
        (b"[]", "The JSON body must be an object with 'inputs'."),
        (b"{}", "You must provide 'inputs'."),
    ],
)
@pytest.mark.parametrize("parse", [parse_embed, parse_embed_all])
def test_bodies_that_are_no_request(parse: Any, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(body, MODELS, LIMITS)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "We could not parse the JSON body of your request: it is not valid JSON."),
        (
            b'{"inputs": {"source_sentence": "a", "sentences": ["\xff"]}}',
            "We could not parse the JSON body of your request: it is not valid UTF-8.",
        ),
        (b"[]", "The JSON body must be an object with 'inputs'."),
        (b"{}", "You must provide 'inputs'."),
    ],
)
def test_bodies_that_are_no_comparison(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_similarity(body, MODELS, LIMITS)
    assert caught.value.message == message


@pytest.mark.parametrize("field", ["normalize", "dimensions"])
def test_tokens_are_not_normalised_nor_cut(field: str) -> None:
    with pytest.raises(InvalidRequestError, match="the vectors of tokens") as caught:
        parse_embed_all(json.dumps({"inputs": "a", field: 32}).encode(), MODELS, LIMITS)
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("inputs", "fields", "message", "param"),
    [
        ("a", {}, "'inputs' must be an object with 'source_sentence' and 'sentences'.", "inputs"),
        ({}, {}, "You must provide 'inputs.source_sentence'.", "inputs.source_sentence"),
        ({"source_sentence": "a"}, {}, "You must provide 'inputs.sentences'.", "inputs.sentences"),
        ({"source_sentence": "", "sentences": ["a"]}, {}, "'inputs.source_sentence' must be a string of at least one character.", "inputs.source_sentence"),
        ({"source_sentence": "a", "sentences": "b"}, {}, "'$.inputs.sentences' is invalid: got a string. Send a list of strings.", "inputs.sentences"),
        ({"source_sentence": "a", "sentences": ["b", 1]}, {}, "'$.inputs.sentences[1]' is invalid: expected a string, got an integer. Send a list of strings.", "inputs.sentences"),
        ({"source_sentence": "a", "sentences": ["b"] * 3}, {}, "'inputs.sentences' has more than 2 items. Split them over several requests.", "inputs.sentences"),
        ({"source_sentence": "a", "sentences": ["b"], "c": 1}, {}, "The field 'inputs.c' is not supported. Remove it.", "inputs.c"),
        ({"source_sentence": "a", "sentences": ["b"]}, {"parameters": 1}, "'parameters' must be an object.", "parameters"),
        ({"source_sentence": "a", "sentences": ["b"]}, {"parameters": {"truncate": 1}}, "'parameters.truncate' must be true or false.", "parameters.truncate"),
        ({"source_sentence": "a", "sentences": ["b"]}, {"parameters": {"x": 1}}, "The field 'parameters.x' is not supported. Remove it.", "parameters.x"),
    ],
)  # fmt: skip
def test_refused_comparisons(inputs: object, fields: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        similarity(inputs, **fields)
    assert (caught.value.message, caught.value.param) == (message, param)


@pytest.mark.parametrize(
    ("field", "advice"),
    [("source_sentence", "Send it inside 'inputs'."), ("sentences", "Send them inside 'inputs'.")],
)
def test_sentences_beside_the_inputs(field: str, advice: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_similarity(json.dumps({field: "a"}).encode(), MODELS, LIMITS)
    assert (caught.value.message, caught.value.param) == (f"The field '{field}' is not supported. {advice}", field)


def test_nothing_to_compare_with() -> None:
    with pytest.raises(EmptyListError):
        similarity({"source_sentence": "a", "sentences": []})


def test_many_sentences_are_counted_before_they_are_decoded() -> None:
    with pytest.raises(RequestError, match="more than 2 items"):
        similarity({"source_sentence": "a", "sentences": ["bcd"] * 20_000})
