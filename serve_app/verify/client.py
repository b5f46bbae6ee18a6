"""A running service, asked over HTTP as any client would."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

from serve_app.errors import EmbedserveError
from serve_app.types import Vectors

SECONDS = 120.0


class ServiceError(EmbedserveError):
    """The service can't be reached, or answers something else than it should; the message says what."""


class Client:
    """Asks the service at `url`, whose model is `model` once `models` has found it. `transport` is for tests.

    Raises `ServiceError` for what is no URL.
    """

    def __init__(self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=SECONDS, transport=transport)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url!r} isn't the URL of a service: {error}") from None
        self.model = ""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON body. Raises `ServiceError` if nobody answers."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON body. Raises `ServiceError` if nobody answers."""
        return self._ask("POST", path, body)

    def embed(self, texts: list[str] | list[list[int]], **fields: Any) -> Vectors:
        """Vectors of texts or token ids by the OpenAI route, float32 `[n, dimensions]`. Raises `ServiceError`."""
        return self.embed_counted(texts, **fields)[0]

    def embed_counted(self, texts: list[str] | list[list[int]], **fields: Any) -> tuple[Vectors, int]:
        """The same, with the tokens that the service says it were."""
        status, body = self.post("/v1/embeddings", {"model": self.model, "input": texts, **fields})
        if status != httpx.codes.OK:
            raise ServiceError(f"/v1/embeddings answers {status} to {_named(fields)}: {message(body)}")
        try:
            return np.array([each["embedding"] for each in body["data"]], np.float32), int(
                body["usage"]["prompt_tokens"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(f"/v1/embeddings answers something else than vectors: {error!r}") from error

    def token_vectors(self, text: str) -> Vectors | None:
        """The states of all tokens of a text, float32 `[tokens, hidden]`; None where there is no such route."""
        status, body = self.post("/embed_all", {"inputs": text})
        return np.array(body[0], np.float32) if status == httpx.codes.OK else None

    def tokens(self, text: str, **fields: Any) -> list[dict[str, Any]] | None:
        """TEI's description of a text's tokens; None where there is no such route."""
        status, body = self.post("/tokenize", {"inputs": text, **fields})
        return list(body[0]) if status == httpx.codes.OK else None

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        try:
            reply = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServiceError(f"nobody answers at {self.url}{path} ({type(error).__name__}: {error})") from error
        try:
            return reply.status_code, reply.json()
        except ValueError:
            return reply.status_code, {}


def message(body: Any) -> str:
    """The message of an error in OpenAI's or TEI's shape."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") if isinstance(error, dict) else error)[:300]


def _named(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "plain texts"
