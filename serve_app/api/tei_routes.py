"""The operations of Text Embeddings Inference's dialect."""

from __future__ import annotations

import asyncio
from typing import Any

from serve_app.api import tei, tei_reply, tei_tokens
from serve_app.api.deadline import TIMEOUT_MEANS
from serve_app.api.disconnect import until_disconnect
from serve_app.api.embeddings import Embeddings, parsed
from serve_app.api.http import TIMEOUT, Reply, Request
from serve_app.api.models import Models, permitted
from serve_app.api.routing import Handler, Route
from serve_app.api.service import Service
from serve_app.api.tei_errors import TeiErrorReply, tei_error_reply
from serve_app.api.tei_info import Info, TeiInfo

DIALECT = "tei"

# A token is about 70 bytes of JSON and a third of a microsecond.
RENDER_INLINE_TOKENS = 2048

_HEADERS = {TIMEOUT.decode(): (TIMEOUT_MEANS, {"type": "number", "exclusiveMinimum": 0})}
_REFUSALS: dict[int, Any] = dict.fromkeys((400, 413, 415, 422), TeiErrorReply)
_FAILURES: dict[int, Any] = dict.fromkeys((408, 424, 429, 503), TeiErrorReply)


def tei_routes(service: Service, models: Models) -> list[Route]:
    """TEI's routes. `POST /` is `/embed` too: that is where Hugging Face's clients send to."""
    headers = _compute_headers(models)
    embed = Embeddings(service, models, tei.parse_embed, tei_reply.render_embed, headers)
    similarity = Embeddings(service, models, tei.parse_similarity, tei_reply.render_similarity, headers)
    every = Embeddings(
        service,
        models,
        tei.parse_embed_all,
        tei_reply.render_embed_all,
        headers,
        lambda job, request_id: service.embed_all(job, request_id),  # noqa: PLW0108 - looked up when it is needed
    )
    tokenizer = Tokenizer(service, models)
    return [
        _vectors("/embed", embed, "Embed texts or token ids, as TEI does", list[list[float]], tei.TeiEmbedRequest),
        _vectors("/", embed, "The same, for Hugging Face's clients", list[list[float]], tei.TeiEmbedRequest),
        _vectors("/embed_all", every, "Embed every token", list[list[list[float]]], tei.TeiEmbedAllRequest),
        _vectors("/similarity", similarity, "Compare a text with others", list[float], tei.TeiSimilarityRequest),
        _tokens(
            "/tokenize",
            tokenizer.tokenize,
            "Tokenize texts",
            list[list[tei_tokens.TeiToken]],
            tei_tokens.TeiTokenizeRequest,
        ),
        _tokens("/decode", tokenizer.decode, "Make texts of token ids", list[str], tei_tokens.TeiDecodeRequest),
        Route(
            "GET",
            "/info",
            Info(service, models),
            "Describe the model and its limits, as TEI does",
            {200: TeiInfo},
            errors=tei_error_reply,
            error=TeiErrorReply,
        ),
    ]


class Tokenizer:
    """`POST /tokenize` and `POST /decode` for one service."""

    def __init__(self, service: Service, models: Models) -> None:
        self._service = service
        self._models = models
        self._limits = service.limits

    async def tokenize(self, request: Request) -> Reply:
        """The tokens of texts, with their places."""
        job = await parsed(request, tei_tokens.parse_tokenize, self._models, self._limits)
        request.model = permitted(request, self._models.default.id)
        work = self._service.tokenize(job.texts, job.prompt, job.add_special_tokens)
        found = await until_disconnect(work, request.receive)
        if sum(len(one.ids) for one in found) <= RENDER_INLINE_TOKENS:
            return Reply(200, tei_tokens.render_tokenize(found))
        return Reply(200, await asyncio.to_thread(tei_tokens.render_tokenize, found))

    async def decode(self, request: Request) -> Reply:
        """The texts of token ids."""
        job = await parsed(request, tei_tokens.parse_decode, self._models, self._limits)
        request.model = permitted(request, self._models.default.id)
        work = self._service.decode(job.token_ids, job.skip_special_tokens)
        return Reply(200, tei_tokens.render_decode(await until_disconnect(work, request.receive)))


def _compute_headers(models: Models) -> tei_reply.ComputeHeaders:
    return tei_reply.ComputeHeaders(models.served[0].device if models.served else None)


def _vectors(path: str, handler: Handler, summary: str, reply: Any, request: Any) -> Route:
    responses = {200: reply, **_REFUSALS, **_FAILURES}
    return Route("POST", path, handler, summary, responses, request, _HEADERS, DIALECT, tei_error_reply, TeiErrorReply)


def _tokens(path: str, handler: Handler, summary: str, reply: Any, request: Any) -> Route:
    responses = {200: reply, **_REFUSALS, 424: TeiErrorReply}
    return Route("POST", path, handler, summary, responses, request, {}, DIALECT, tei_error_reply, TeiErrorReply)
