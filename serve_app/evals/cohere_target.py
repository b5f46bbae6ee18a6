"""Cohere's embeddings API, and what speaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cohere
import httpx
import numpy as np
from cohere.core.api_error import ApiError

from serve_app.evals.encoder import Role
from serve_app.evals.target import Target, TargetError
from serve_app.evals.target_backend import RETRIES, TIMEOUT_SECONDS, Answer, Known

MOST_TEXTS = 96
"""In a request, by Cohere's API reference."""

INPUT_TYPES: dict[Role, Any] = {
    Role.QUERY: "search_query",
    Role.DOCUMENT: "search_document",
    # Cohere names none for sentences that are held against each other: both sides get the same one.
    Role.SIMILARITY: "search_document",
    Role.CLUSTERING: "clustering",
}


class CohereTarget:
    """`cohere.ClientV2` with its retries."""

    threads: int | None = None
    kept = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self.batch = min(target.batch or MOST_TEXTS, MOST_TEXTS)
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True)
        url = target.url.removesuffix("/v2") or "https://api.cohere.com"
        self._client = cohere.ClientV2(target.key or "none", base_url=url, httpx_client=self._http)

    def open(self) -> Known:
        notes = ["Cohere's API has no field for instructions: texts went with the `input_type` of their role."]
        return Known(self._target.model, {}, notes)

    def prepare(self, texts: Sequence[str]) -> None:
        pass

    def before(self, role: Role, instruction: str | None) -> str:
        return str(INPUT_TYPES[role])

    def embed(self, texts: Sequence[str], role: Role, instruction: str | None) -> Answer:
        try:
            reply = self._client.embed(
                model=self._target.model,
                input_type=INPUT_TYPES[role],
                texts=list(texts),
                embedding_types=["float"],
                truncate="NONE",  # a text that is too long is refused: a cut one would be measured as if it were whole
                request_options={"max_retries": RETRIES},
            )
            billed = reply.meta.billed_units if reply.meta else None
            vectors = reply.embeddings.float_ or []
        except (ApiError, httpx.HTTPError, ValueError, TypeError, AttributeError) as error:  # the last two: other JSON
            raise _refusal(error, self._target) from error
        tokens = None if billed is None or billed.input_tokens is None else int(billed.input_tokens)
        if len({len(vector) for vector in vectors}) != 1:
            raise TargetError("its vectors aren't all of the same length")
        return Answer(np.array(vectors, np.float32), tokens)

    def close(self) -> None:
        self._http.close()


def _refusal(error: Exception, target: Target) -> TargetError:
    """What to tell the user."""
    where = target.url or "Cohere"
    if isinstance(error, httpx.TransportError):
        return TargetError(f"{where} can't be reached ({error}). Is it running?", gone=True)
    status = error.status_code if isinstance(error, ApiError) else None
    if status is None or not isinstance(error, ApiError):
        return TargetError(f"{where} answers something else than Cohere's API ({type(error).__name__})", gone=True)
    if status in (401, 403):
        key = (
            f"the key in {target.key_env}"
            if target.key_env
            else "a request without a key: name its variable with key-env=NAME"
        )
        return TargetError(f"{where} refuses {key} (status {status})", gone=True)
    said = error.body.get("message") if isinstance(error.body, dict) else None
    short = " ".join(str(said or "").split())[:300]
    return TargetError(f"{where} answers status {status}{f': {short}' if short else ''}", gone=status == 404)
