"""What goes before a text: the three fields mean the same everywhere, and never two things at once."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from serve_app.api.prompts import DEFAULT_PROMPTS, INPUT_TYPES, InputType, listed, prompt_for, resolve
from serve_app.errors import InvalidRequestError
from serve_app.types import ServedModel

QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
MODEL = ServedModel("m", 8, 8, prompts={"query": "own query: ", "faq": "faq: "})
BARE = ServedModel("m", 8, 8)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, None),
        ({"instruction": ""}, None),
        ({"instruction": "Find it"}, "Instruct: Find it\nQuery:"),
        ({"instruction": "{text} %s"}, "Instruct: {text} %s\nQuery:"),
        ({"prompt_name": "query"}, "own query: "),
        ({"prompt_name": "faq"}, "faq: "),
        ({"prompt_name": "document"}, None),
        ({"prompt_name": "clustering"}, DEFAULT_PROMPTS["clustering"]),
        ({"input_type": "search_query"}, "own query: "),
        ({"input_type": "query"}, "own query: "),
        ({"input_type": "search_document"}, None),
        ({"input_type": "document"}, None),
        ({"input_type": "passage"}, None),
        ({"input_type": "classification"}, DEFAULT_PROMPTS["classification"]),
        ({"input_type": "clustering"}, DEFAULT_PROMPTS["clustering"]),
        ({"input_type": "search_query", "instruction": "Find it"}, "Instruct: Find it\nQuery:"),
        ({"input_type": "clustering", "instruction": "Find it"}, "Instruct: Find it\nQuery:"),
        ({"input_type": "search_document", "instruction": ""}, None),
        ({"prompt_name": "document", "texts": False}, None),
        ({"input_type": "search_document", "texts": False}, None),
    ],
)
def test_what_precedes_a_text(fields: dict[str, Any], prompt: str | None) -> None:
    assert resolve(MODEL, **fields) == prompt


def test_a_checkpoint_without_prompts_has_the_family_s() -> None:
    assert resolve(BARE, input_type="search_query") == QUERY == prompt_for(QUERY[10:-7])


def test_a_document_prompt_of_the_model_precedes_documents() -> None:
    model = ServedModel("m", 8, 8, prompts={"document": "passage: "})
    assert resolve(model, input_type="search_document") == "passage: "
    with pytest.raises(InvalidRequestError, match="says documents"):
        resolve(model, input_type="search_document", instruction="Find it")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"prompt_name": "no"},
            "prompt_name",
            "'prompt_name' must be 'query', 'document', 'classification', 'clustering' or 'faq' for the model 'm'.",
        ),
        (
            {"prompt_name": "query", "instruction": "x"},
            "prompt_name",
            "'prompt_name' contradicts 'instruction'. Remove one of them.",
        ),
        (
            {"prompt_name": "query", "input_type": "search_query"},
            "prompt_name",
            "'prompt_name' contradicts 'input_type'. Remove one of them.",
        ),
        (
            {"input_type": "search_document", "instruction": "x"},
            "instruction",
            "'instruction' is for queries, and the 'input_type' says documents. Remove one of them.",
        ),
        (
            {"instruction": "x" * 4097},
            "instruction",
            "'instruction' is longer than 4096 characters. Say the task in a sentence.",
        ),
        (
            {"instruction": "x", "texts": False},
            "instruction",
            "'instruction' needs text input: it can't be put before token ids.",
        ),
        (
            {"prompt_name": "faq", "texts": False},
            "prompt_name",
            "'prompt_name' needs text input: it can't be put before token ids.",
        ),
        (
            {"input_type": "clustering", "texts": False},
            "input_type",
            "'input_type' needs text input: it can't be put before token ids.",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(MODEL, **fields)
    error = caught.value
    assert (error.status, error.type, error.param, error.code, error.message) == (
        400,
        "invalid_request_error",
        param,
        None,
        message,
    )


def test_every_input_type_has_a_prompt() -> None:
    assert set(INPUT_TYPES) == set(get_args(InputType))
    assert set(INPUT_TYPES.values()) <= set(DEFAULT_PROMPTS)


def test_lists_of_names_read_as_english() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["'a'", "'a' or 'b'", "'a', 'b' or 'c'"]
