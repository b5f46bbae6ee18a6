"""The operations of this API, in the order in which the documents list them."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.api import cohere, cohere_reply, openai, openai_reply
from serve_app.api.cohere_reply import CohereError, EmbedFloatsReply, EmbedReply
from serve_app.api.cohere_request import EmbedRequest, EmbedRequestV1
from serve_app.api.deadline import TIMEOUT_MEANS
from serve_app.api.docs import Documents
from serve_app.api.embeddings import Embeddings
from serve_app.api.errors import ErrorReply
from serve_app.api.http import TIMEOUT
from serve_app.api.models import Model, ModelList, Models
from serve_app.api.openai import EmbeddingsRequest
from serve_app.api.openai_reply import EmbeddingsReply
from serve_app.api.ops import Failing, Ops, Status, Version
from serve_app.api.routing import Access, Route
from serve_app.api.service import Service
from serve_app.api.tei_routes import DIALECT as TEI
from serve_app.api.tei_routes import tei_routes

DIALECTS = ("openai", "cohere", TEI)
"""Whose contracts requests for vectors can be made in."""

_HEADERS = {TIMEOUT.decode(): (TIMEOUT_MEANS, {"type": "number", "exclusiveMinimum": 0})}


def api_routes(service: Service, extra: Sequence[Route] = ()) -> list[Route]:
    """The routes for `service`, with `extra` ones documented beside them."""
    models, ops, documents = Models(service.models), Ops(service), Documents()
    routes = [
        Route(
            "POST",
            "/v1/embeddings",
            Embeddings(
                service,
                models,
                openai.parse,
                openai_reply.render,
                openai_reply.headers,
                content_type=openai_reply.content_type,
            ),
            "Embed texts or token ids",
            {200: EmbeddingsReply | bytes, **dict.fromkeys((400, 404, 408, 413, 415, 422, 429, 500, 503), ErrorReply)},
            EmbeddingsRequest,
            _HEADERS,
            DIALECTS[0],
        ),
        *(
            Route(
                "POST",
                path,
                Embeddings(service, models, parse, cohere_reply.render),
                "Embed texts, as Cohere's API does",
                {200: reply, **dict.fromkeys((400, 404, 413, 415, 422, 429, 500, 503, 504), CohereError)},
                body,
                _HEADERS,
                DIALECTS[1],
                cohere_reply.cohere_error_reply,
                CohereError,
            )
            for path, body, parse, reply in (
                ("/v2/embed", EmbedRequest, cohere.parse_v2, EmbedReply),
                ("/v1/embed", EmbedRequestV1, cohere.parse_v1, EmbedReply | EmbedFloatsReply),
            )
        ),
        *tei_routes(service, models),
        Route("GET", "/v1/models", models.list_models, "List the served models", {200: ModelList}),
        Route("GET", "/v1/models/{model}", models.get_model, "Describe a model", {200: Model}),
        Route(
            "GET", "/health", ops.health, "Is this process alive?", {200: Status, 503: Failing}, access=Access.PUBLIC
        ),
        Route(
            "GET",
            "/ready",
            ops.ready,
            "Would a request be served now?",
            {200: Status, 503: Failing},
            access=Access.PUBLIC,
        ),
        Route("GET", "/version", ops.version, "Name the version in use", {200: Version}),
        *extra,
        Route("GET", "/openapi.json", documents.openapi, "This document", {200: "application/json"}),
        Route("GET", "/docs", documents.docs, "This document as a page", {200: "text/html"}),
    ]
    documents.write(routes, service.models, service.limits, service.version)
    return routes
