"""`GET /info`: the served model and its limits, under TEI's names."""

from __future__ import annotations

from msgspec import Struct

from serve_app.api.http import Reply, Request, json_reply
from serve_app.api.models import Models, permitted
from serve_app.api.service import Service
from serve_app.types import Limits, ServedModel


class TeiEmbeddingModel(Struct):
    """How one vector comes of many: that of the last token is taken."""

    pooling: str


class TeiModelType(Struct):
    """TEI's model type; this server has embedding models only."""

    embedding: TeiEmbeddingModel


class TeiInfo(Struct):
    """Reply of `GET /info`: TEI's fields but for `max_concurrent_requests` and `tokenization_workers`, which have no counterpart here
    (admission goes by tokens). What isn't known is null; so are `sha` and `docker_label`, which TEI's own images have."""

    model_id: str
    model_sha: str | None
    model_dtype: str | None
    served_model_name: str
    model_type: TeiModelType
    max_input_length: int
    max_batch_tokens: int | None
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    version: str
    sha: str | None = None
    docker_label: str | None = None


class Info:
    """The endpoint for one service."""

    def __init__(self, service: Service, models: Models) -> None:
        self._service = service
        self._models = models

    async def __call__(self, request: Request) -> Reply:
        permitted(request, self._models.default.id)
        return json_reply(describe(self._models.default, self._service.limits, self._service.version))


def describe(model: ServedModel, limits: Limits, version: str) -> dict[str, object]:
    """The fields of `TeiInfo`."""
    return {
        "model_id": model.id,
        "model_sha": model.revision,
        "model_dtype": model.dtype,
        "served_model_name": model.id,
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_input_length": model.max_input_tokens,
        "max_batch_tokens": model.max_batch_tokens,
        "max_batch_requests": model.max_batch_inputs,
        "max_client_batch_size": limits.max_inputs,
        "auto_truncate": False,
        "version": version,
        "sha": None,
        "docker_label": None,
    }
