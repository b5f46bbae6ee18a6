"""Whether instructions reach the model, word for word."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.engine import self_check
from serve_app.engine.finding import Finding
from serve_app.types import Vectors
from serve_app.verify.client import Client

TASK = "Find the sentence that means the same"

# Stated here anew, from the model card, rather than taken from where the service has it: a check that shares it couldn't see it wrong.
TEMPLATE = "Instruct: {}\nQuery:"


def check_prompts(client: Client, text: str, query_prompt: str | None, dtype: str) -> Iterator[Finding]:
    """An `instruction` has to give the vector of the same words written before the text, and so has the prompt for queries; documents
    have none."""
    bare, literal = client.embed([text, TEMPLATE.format(TASK) + text])
    instructed = client.embed([text], instruction=TASK)[0]
    if _same(instructed, bare, dtype):
        yield Finding("instruction", False, "an instruction changes nothing: it doesn't reach the model")
    elif not _same(instructed, literal, dtype):
        said = f"an instruction gives another vector than {TEMPLATE.format('…')!r} before the text, which the models are trained with"
        yield Finding("instruction", False, said)
    else:
        yield Finding("instruction", True, f"the same as {TEMPLATE.format('…')!r} before the text")
    if query_prompt is None:
        yield Finding("prompts", None, "the service doesn't say what its prompt for queries is")
        return
    named = client.embed([text], prompt_name="query")[0]
    document = client.embed([text], input_type="document")[0]
    if not _same(named, client.embed([query_prompt + text])[0], dtype):
        said = f"prompt_name 'query' gives another vector than {query_prompt!r} before the text, which /v1/models says it is"
        yield Finding("prompts", False, said)
    elif not _same(document, bare, dtype):
        yield Finding("prompts", False, "a document gets another vector than the bare text: documents have no prompt")
    else:
        yield Finding("prompts", True, f"queries get {query_prompt!r}, documents nothing")


def _same(a: Vectors, b: Vectors, dtype: str) -> bool:
    return float(a @ b) >= 1 - self_check.tolerance_of(dtype)
