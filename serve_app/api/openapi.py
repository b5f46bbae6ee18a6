"""The OpenAPI 3.1 document, generated from the routes and structs that are served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from http import HTTPStatus
from types import UnionType
from typing import Any, get_args

import msgspec

from serve_app.api.cohere_request import EmbedRequest, EmbedRequestV1
from serve_app.api.errors import PASSING
from serve_app.api.openai import EmbeddingsRequest, dimension_range
from serve_app.api.prompts import prompts_of
from serve_app.api.routing import Access, Route
from serve_app.api.tei_schema import bound_tei
from serve_app.types import Limits, ServedModel

_REF = "#/components/schemas/{name}"

_BEARER = "apiKey"

_RETRY_HEADERS = {
    "retry-after": {"description": "Whole seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
    "retry-after-ms": {
        "description": "The same in milliseconds, where it is known so exactly.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "x-should-retry": {
        "description": "Whether to send the same request again.",
        "schema": {"enum": ["true", "false"]},
    },
}


def document(routes: Sequence[Route], models: Sequence[ServedModel], limits: Limits, version: str) -> dict[str, Any]:
    """The OpenAPI document for `routes`, with this server's limits in the request schema."""
    bodies = [body for route in routes for body in (route.error, route.request, *route.responses.values())]
    types = sorted({part for body in bodies if body is not None for part in _parts(body)}, key=str)
    found, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    # The schemas hold parts of the structs' own annotations: bound a copy.
    schemas = deepcopy(schemas)
    if EmbeddingsRequest in types:
        _bound(schemas["EmbeddingsRequest"]["properties"], models, limits)
    for struct in (EmbedRequest, EmbedRequestV1):
        if struct in types:
            _bound_cohere(schemas[struct.__name__], models, limits)
    bound_tei(schemas, models, limits)
    paths: dict[str, dict[str, Any]] = {}
    content = dict(zip(types, found, strict=True))
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, content)
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedserve", "version": version, "description": _describe(models)},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}}},
    }


def _describe(models: Sequence[ServedModel]) -> str:
    served = ", ".join(f"{model.id} ({model.dimensions} dimensions)" for model in models)
    return f"Text embeddings behind the APIs of OpenAI, Cohere and Text Embeddings Inference. Serving {served}."


def _bound(properties: dict[str, Any], models: Sequence[ServedModel], limits: Limits) -> None:
    for shape in properties["input"]["anyOf"]:
        if shape["type"] == "array" and shape["items"]["type"] != "integer":
            shape["maxItems"] = limits.max_inputs
    if not models:
        return
    _bound_dimensions(properties["dimensions"], models)
    names = {"type": "string", "enum": sorted({name for model in models for name in prompts_of(model)})}
    properties["prompt_name"]["anyOf"] = [names, {"type": "null"}]
    _integer(properties["truncate_prompt_tokens"])["maximum"] = max(model.max_input_tokens for model in models)


def _bound_cohere(schema: dict[str, Any], models: Sequence[ServedModel], limits: Limits) -> None:
    properties = schema["properties"]
    schema["oneOf"] = [{"properties": {name: {"type": "array"}}, "required": [name]} for name in ("texts", "inputs")]
    for name in ("texts", "inputs"):
        array = properties[name]["anyOf"][0]
        array |= {"minItems": 1, "maxItems": min(limits.max_cohere_texts, limits.max_inputs)}
    if models:
        _bound_dimensions(properties["output_dimension"], models)


def _bound_dimensions(schema: dict[str, Any], models: Sequence[ServedModel]) -> None:
    ranges = [dimension_range(model) for model in models]
    dimensions = _integer(schema)
    dimensions["minimum"] = min(low for low, _ in ranges)
    dimensions["maximum"] = max(high for _, high in ranges)


def _integer(schema: dict[str, Any]) -> dict[str, Any]:
    branches: list[dict[str, Any]] = schema["anyOf"]
    return next(branch for branch in branches if branch.get("type") == "integer")


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.summary, "responses": {}}
    for status, body in route.responses.items():
        operation["responses"][str(status)] = _response(HTTPStatus(status).phrase, body, schemas)
        if status in PASSING or status == HTTPStatus.GATEWAY_TIMEOUT:
            operation["responses"][str(status)]["headers"] = _RETRY_HEADERS
    if route.access is not Access.PUBLIC:
        operation["security"] = [{_BEARER: []}, {}]  # a server without keys wants none
        for status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            operation["responses"].setdefault(str(status.value), _response(status.phrase, route.error, schemas))
    operation["responses"]["default"] = _response("Error", route.error, schemas)
    names = re.findall(r"{(\w+)}", route.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    for name, (description, schema) in route.headers.items():
        parameters.append({"name": name, "in": "header", "description": description, "schema": schema})
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.request, schemas)}
    return operation


def _response(description: str, body: Any, schemas: dict[Any, Any]) -> dict[str, Any]:
    return {"description": description, "content": _content(body, schemas)}


def _content(body: Any, schemas: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(body, str):
        return {body: {}}
    parts = [schemas[part] for part in _parts(body)]
    content: dict[str, Any] = {"application/json": {"schema": parts[0] if len(parts) == 1 else {"anyOf": parts}}}
    return content | {"application/octet-stream": {}} if bytes in get_args(body) else content


def _parts(body: Any) -> tuple[Any, ...]:
    """The types of a JSON body: one, those of a union, or none for a media type. `bytes` in a union is a body that is none."""
    if isinstance(body, str):
        return ()
    return tuple(part for part in get_args(body) if part is not bytes) if isinstance(body, UnionType) else (body,)
