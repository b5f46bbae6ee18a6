"""What embedding APIs want to be sent and what they answer: OpenAI's `POST /v1/embeddings` and Cohere's `POST /v2/embed`.

Sources: OpenAI's openapi.yaml (CreateEmbeddingRequest, CreateEmbeddingResponse) and Cohere's cohere-openapi.yaml (embed, version 2).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from serve_app.bench.address import EMBEDDINGS
from serve_app.bench.workloads import Content

DialectName = Literal["openai", "cohere"]


class ReplyError(Exception):
    """A reply with status 200 that isn't what was asked for."""


@dataclass(frozen=True)
class Dialect:
    """`most_inputs` is what one request may carry; `usage` finds the token count in a reply without reading all of it."""

    name: DialectName
    path: str
    most_inputs: int
    usage: re.Pattern[bytes]

    def bodies(self, model: str, content: Content) -> list[bytes]:
        """One request's JSON, or several requests' where the API takes fewer inputs than there are."""
        texts = content.texts
        parts = [texts[i : i + self.most_inputs] for i in range(0, len(texts), self.most_inputs)]
        return [self._body(model, part, content.query) for part in parts]

    def _body(self, model: str, texts: Sequence[str], query: bool) -> bytes:
        if self.name == "cohere":
            kind = "search_query" if query else "search_document"
            # As SDKs do: base64 isn't asked for, being younger than many servers that speak this.
            fields = {
                "model": model,
                "input_type": kind,
                "texts": texts,
                "embedding_types": ["float"],
                "truncate": "NONE",
            }
            return orjson.dumps(fields)
        value = texts[0] if len(texts) == 1 else texts
        return orjson.dumps({"model": model, "input": value, "encoding_format": "base64"})

    def tokens(self, reply: bytes) -> int:
        """What the reply says it bills; 0 if it doesn't say."""
        found = self.usage.search(reply, max(0, len(reply) - 2048)) or self.usage.search(reply)
        return int(found[1]) if found else 0

    def vectors(self, reply: bytes, inputs: int) -> NDArray[np.float32]:
        """Float32 `[inputs, width]`. Raises `ReplyError` unless there is a finite vector of one width, not zero, for every input, in
        the order of the inputs."""
        try:
            rows = [_vector(item) for item in self._items(orjson.loads(reply))]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ReplyError(f"not a reply of this API ({type(error).__name__})") from error
        if len(rows) != inputs:
            raise ReplyError(f"{inputs} inputs, {len(rows)} vectors")
        if len({len(row) for row in rows}) != 1 or rows[0].size == 0:
            raise ReplyError(f"vectors of {sorted({len(row) for row in rows})} numbers in one reply")
        vectors = np.stack(rows)
        if not np.isfinite(vectors).all():
            raise ReplyError("a vector that isn't finite")
        if not vectors.any(axis=1).all():
            raise ReplyError("a vector of nothing but zeros")
        return vectors

    def _items(self, value: dict[str, Any]) -> list[Any]:
        if self.name == "cohere":
            return list(value["embeddings"]["float"])
        if [item["index"] for item in value["data"]] != list(range(len(value["data"]))):
            raise ReplyError("vectors out of order")
        return [item["embedding"] for item in value["data"]]


def _vector(value: str | list[float]) -> NDArray[np.float32]:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
    return np.array(value, dtype=np.float32)


DIALECTS: dict[str, Dialect] = {
    "openai": Dialect("openai", EMBEDDINGS, 2048, re.compile(rb'"prompt_tokens"\s*:\s*(\d+)')),
    "cohere": Dialect("cohere", "/v2/embed", 96, re.compile(rb'"input_tokens"\s*:\s*(\d+)')),
}
