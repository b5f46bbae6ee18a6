"""Which model a name means, and what clients may know of it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from serve_app.api.http import Reply, Request, json_reply
from serve_app.api.prompts import prompts_of
from serve_app.errors import ModelNotAllowedError, ModelNotFoundError
from serve_app.types import ServedModel

NO_MODEL = "No model is served here."


class Model(Struct):
    """OpenAI's model object, and what this server adds to it: from `dimensions` on.

    `aliases` are other names that it answers to, and `prompts` what `prompt_name` can be, each with the text that precedes inputs.
    `demo` marks the small checkpoint that is made for tests and first runs: its vectors mean nothing.
    """

    id: str
    object: str
    created: int
    owned_by: str
    dimensions: int
    max_input_tokens: int
    revision: str | None
    demo: bool
    aliases: list[str]
    prompts: dict[str, str]


class ModelList(Struct):
    """Reply of `GET /v1/models`."""

    object: str
    data: list[Model]


class Models:
    """The served models by name.

    A model is found by its id or by the id's last part, in any case. One that was loaded from a local folder
    has no organisation of its own, so any is accepted: `/data/Qwen3-Embedding-0.6B` answers to
    `Qwen/Qwen3-Embedding-0.6B`. Aliases are found in any case too; a model's own names come before another's aliases.
    """

    def __init__(self, served: Sequence[ServedModel]) -> None:
        self.served = list(served)
        self._names: dict[str, ServedModel] = {}
        self._folders: dict[str, ServedModel] = {}
        for model in self.served:
            name = _basename(model.id)
            self._names[model.id] = self._names[model.id.lower()] = model
            self._names.setdefault(name, model)
            if not _organisation(model.id):
                self._folders.setdefault(name, model)
        for model in self.served:
            for alias in model.aliases:
                self._names.setdefault(alias, model)
                self._names.setdefault(alias.lower(), model)

    def find(self, name: str) -> ServedModel:
        """The model that `name` means. Raises `ModelNotFoundError`, which names those that are served."""
        found = self._names.get(name) or self._names.get(name.rstrip("/").lower())
        if found is None and name.count("/") == 1:
            found = self._folders.get(_basename(name))
        if found is None:
            if not self.served:
                raise ModelNotFoundError(NO_MODEL, "model")
            ids = ", ".join(f"'{model.id}'" for model in self.served)
            raise ModelNotFoundError(f"The model '{name[:100]}' is not served here. Served: {ids}.", "model")
        return found

    @property
    def default(self) -> ServedModel:
        """The model of requests in a dialect that names none. Raises `ModelNotFoundError` where none is served."""
        if not self.served:
            raise ModelNotFoundError(NO_MODEL)
        return self.served[0]

    async def list_models(self, request: Request) -> Reply:
        """`GET /v1/models`: those that the request's API key may use."""
        grant = request.grant
        found = [model for model in self.served if grant is None or grant.allows(model.id)]
        return json_reply({"object": "list", "data": [describe(model) for model in found]})

    async def get_model(self, request: Request) -> Reply:
        """`GET /v1/models/{model}`, under any of the model's names, if the request's API key may use it."""
        model = self.find(request.path.removeprefix("/v1/models/"))
        permitted(request, model.id)
        return json_reply(describe(model))


def permitted(request: Request, model: str) -> str:
    """`model`, the id of one that a request uses without a job. Raises `ModelNotAllowedError` if its API key may not."""
    if request.grant is not None and not request.grant.allows(model):
        raise ModelNotAllowedError(f"Your API key may not use the model '{model}'.", "model")
    return model


def describe(model: ServedModel) -> dict[str, object]:
    """`model` as the fields of `Model`."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": _organisation(model.id) or "local",
        "dimensions": model.dimensions,
        "max_input_tokens": model.max_input_tokens,
        "revision": model.revision,
        "demo": model.demo,
        "aliases": list(model.aliases),
        "prompts": prompts_of(model),
    }


def _basename(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _organisation(name: str) -> str:
    organisation, _, rest = name.partition("/")
    return organisation if rest and "/" not in rest and organisation not in ("", ".", "..", "~") else ""
