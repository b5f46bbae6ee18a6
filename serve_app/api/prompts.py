"""What goes before a text: one meaning of `instruction`, `prompt_name` and `input_type` in every dialect.

A prompt is literal text, as in a checkpoint's `config_sentence_transformers.json`. `instruction` makes one of the model
card's template; `prompt_name` and `input_type` choose one of the served model's, which come from the settings, from the
checkpoint and from `DEFAULT_PROMPTS`, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta

from serve_app.errors import InvalidRequestError
from serve_app.types import ServedModel

TEMPLATE = "Instruct: {instruction}\nQuery:"
"""The model card's template for queries. There is no space after `Query:`, and documents have no prompt at all."""


def prompt_for(instruction: str) -> str:
    """The prompt that states the task `instruction`."""
    return TEMPLATE.format(instruction=instruction)


# `query` and `document` are Qwen3-Embedding's own, for checkpoints that have lost theirs. For what else Cohere's API
# has an `input_type`, the wording is ours, in the style of the tasks that the models' authors evaluate with: English whatever the
# texts' language, one sentence, what to do with the text.
DEFAULT_PROMPTS: Mapping[str, str] = MappingProxyType(
    {
        "query": prompt_for("Given a web search query, retrieve relevant passages that answer the query"),
        "document": "",
        "classification": prompt_for("Classify the text by its topic, intent or sentiment"),
        "clustering": prompt_for("Identify the topic or theme of the text"),
    }
)

InputType = Literal["search_query", "search_document", "classification", "clustering", "query", "document", "passage"]

INPUT_TYPES: Mapping[InputType, str] = MappingProxyType(
    {
        "search_query": "query",
        "search_document": "document",
        "classification": "classification",
        "clustering": "clustering",
        "query": "query",
        "document": "document",
        "passage": "document",
    }
)
"""Prompt names of the input types: Cohere's four, and what Voyage (`query`, `document`) and NIM (`passage`) call the first two."""

# Every text of a request gets the prompt: a long one for many would be a request far larger than its body.
MAX_INSTRUCTION_CHARACTERS = 4096
Instruction = Annotated[str, Meta(max_length=MAX_INSTRUCTION_CHARACTERS)]


def prompts_of(model: ServedModel) -> dict[str, str]:
    """All prompts of `model` by name: its own over the default ones."""
    return {**DEFAULT_PROMPTS, **model.prompts}


def resolve(
    model: ServedModel,
    instruction: str | None = None,
    prompt_name: str | None = None,
    input_type: InputType | None = None,
    *,
    texts: bool = True,
) -> str | None:
    """The prompt that these fields ask for, None for none. `texts` is False for token ids, which nothing can go before.

    An empty `instruction` counts as left out. One beside an `input_type` takes the place of that type's own task, since
    Cohere's clients always send a type; any other two contradict each other, and so do an instruction and a document.
    Raises `InvalidRequestError` with the field in `param`.
    """
    if not (instruction or prompt_name is not None or input_type is not None):
        return None
    if prompt_name is not None and (instruction or input_type is not None):
        other = "instruction" if instruction else "input_type"
        raise InvalidRequestError(f"'prompt_name' contradicts '{other}'. Remove one of them.", "prompt_name")
    field = "instruction" if instruction else "input_type" if prompt_name is None else "prompt_name"
    prompt = _named(model, prompt_name, input_type)
    if instruction:
        if input_type is not None and INPUT_TYPES[input_type] == "document":
            message = "'instruction' is for queries, and the 'input_type' says documents. Remove one of them."
            raise InvalidRequestError(message, field)
        prompt = prompt_for(_bounded(instruction))
    if prompt and not texts:
        raise InvalidRequestError(f"'{field}' needs text input: it can't be put before token ids.", field)
    return prompt or None


def _named(model: ServedModel, prompt_name: str | None, input_type: InputType | None) -> str:
    if prompt_name is not None:
        prompts = prompts_of(model)
        if prompt_name not in prompts:
            message = f"'prompt_name' must be {listed(list(prompts))} for the model '{model.id}'."
            raise InvalidRequestError(message, "prompt_name")
        return prompts[prompt_name]
    if input_type is None:
        return ""
    return prompts_of(model)[INPUT_TYPES[input_type]]


def _bounded(instruction: str) -> str:
    if len(instruction) > MAX_INSTRUCTION_CHARACTERS:
        message = f"'instruction' is longer than {MAX_INSTRUCTION_CHARACTERS} characters. Say the task in a sentence."
        raise InvalidRequestError(message, "instruction")
    return instruction


def listed(names: Sequence[str]) -> str:
    """`'a', 'b' or 'c'`."""
    quoted = [f"'{name}'" for name in names]
    return " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
