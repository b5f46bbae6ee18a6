"""Whatever is sent to TEI's routes, the answer is a reply or a refusal in TEI's words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve_app.api.app import build_app
from serve_app.cluster.token_vectors import token_vectors
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.types import EmbedJob, EmbedResult, TokenVectors
from tests.demo_service import HIDDEN, DemoService
from tests.reference import VOCABULARY, tokenizer


class Tokenizing(DemoService):
    """Tokenizes for real, and answers with ones."""

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        inputs = await JobTokenizer(tokenizer(), self.limits, VOCABULARY).tokenize(job)
        return EmbedResult(np.ones((len(job), job.dimensions or HIDDEN), np.float32), sum(map(len, inputs)))

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        inputs = await JobTokenizer(tokenizer(), self.limits, VOCABULARY).tokenize(job)
        return await token_vectors([np.ones((1, 2), np.float32) for _ in inputs], {})


APP = build_app(Tokenizing())
GOOD: dict[str, dict[str, Any]] = {
    "/embed": {"inputs": "a"},
    "/": {"inputs": ["a", "b"]},
    "/embed_all": {"inputs": ["a", "b"]},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/tokenize": {"inputs": ["a"]},
    "/decode": {"ids": [1]},
}
FIELDS = [
    *("inputs", "ids", "parameters", "source_sentence", "sentences", "normalize", "truncate", "truncation_direction"),
    *("prompt_name", "dimensions", "instruction", "add_special_tokens", "skip_special_tokens", "x"),
]
# Lone surrogates included: JSON can write them, UTF-8 can't.
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(["left", "query", "<|endoftext|>", "\x00"])
LEAVES = st.none() | st.booleans() | st.integers() | st.integers(0, 1300) | st.floats() | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner)
)
PATHS = st.sampled_from(list(GOOD))
REQUESTS = st.tuples(PATHS, st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3)).map(
    lambda drawn: (drawn[0], json.dumps({**GOOD[drawn[0]], **drawn[1]}).encode())
)
DAMAGED = st.tuples(REQUESTS, st.binary(max_size=4), st.integers(0, 80)).map(
    lambda drawn: (
        drawn[0][0],
        drawn[0][1][: drawn[2]] + drawn[1] + drawn[0][1][drawn[2] + len(drawn[1]) :],
    )
)


async def answer(path: str, body: bytes) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await APP({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    return sent[0]["status"], sent[1]["body"]


@settings(max_examples=200, deadline=None)
@given(REQUESTS | DAMAGED | st.tuples(PATHS, st.binary()))
@example(("/embed", b'{"inputs": "\\ud800"}'))
@example(("/tokenize", b'{"inputs": ["\\udfff\\ud800"]}'))
@example(("/embed", b'{"inputs": ["a", "\\u0000"]}'))
@example(("/embed", b'{"inputs": [1e400]}'))
@example(("/embed", b'{"inputs": [' + b"9" * 5000 + b"]}"))
@example(("/embed", b'{"inputs": "a", "dimensions": ' + b"9" * 5000 + b"}"))
@example(("/decode", b'{"ids": [NaN]}'))
@example(("/similarity", b'{"inputs": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001))
@example(("/similarity", b'{"inputs": {"source_sentence": "a", "sentences": ' + b"[" * 50_000))
@example(("/similarity", b'{"inputs": {"source_sentence": "a", "sentences": "\xff"}}'))
@example(("/embed", b'{"inputs": "a", "inputs": []}'))
@example(("/embed", b'{"inputs": "a", "' + b"x" * 5000 + b'": 1}'))
def test_no_body_breaks_it(request: tuple[str, bytes]) -> None:
    path, body = request
    status, said = asyncio.run(answer(path, body))
    if status == 200:
        assert isinstance(json.loads(said), list)
    else:
        assert status in (400, 422)
        error = json.loads(said)
        assert list(error) == ["error", "error_type"]
        assert error["error_type"] == ("Empty" if status == 400 else "Validation")
        assert len(error["error"]) < 500
