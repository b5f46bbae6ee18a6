"""What the HTTP surface asks of whatever computes the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve_app.types import EmbedJob, EmbedResult, Limits, ServedModel, TokenIds, Tokenized, TokenVectors


class Service(Protocol):
    """One embedding service behind one HTTP surface.

    `models`, `limits` and `version` (of the package) are read once, when the app is built.
    """

    @property
    def models(self) -> Sequence[ServedModel]: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def version(self) -> str: ...

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        """Vectors float32 `[len(job), job.dimensions or hidden]`, L2-normalised, in the order of the inputs.

        Raises `RequestError` for what the client should know; anything else becomes a constant 500. Cancelled
        when the client has gone.
        """

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        """The vectors of all tokens, for a job whose `output` is `Output.TOKENS`. Raises and is cancelled as `embed`."""

    async def tokenize(self, texts: list[str], prompt: str | None, add_special_tokens: bool) -> list[Tokenized]:
        """The tokens of each text, `prompt` before it; without `add_special_tokens` they don't end with the closing one.

        Raises `TooManyTokensError`.
        """

    async def decode(self, token_ids: Sequence[TokenIds], skip_special_tokens: bool) -> list[str]:
        """The text of each of these, int32 `[length]`. Raises `InvalidRequestError` for ids that the model doesn't have."""

    async def health(self) -> str | None:
        """None while this process can do its work, else the reason why not."""

    async def ready(self) -> str | None:
        """None while a request sent now would be served, else the reason why not."""
