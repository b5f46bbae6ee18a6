"""This server's limits in the schemas of TEI's requests, so that the OpenAPI document accepts what the parsers accept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.api.openai import dimension_range
from serve_app.api.prompts import prompts_of
from serve_app.types import Limits, ServedModel

_BOUNDED = (
    "TeiEmbedRequest",
    "TeiEmbedAllRequest",
    "TeiTokenizeRequest",
    "TeiDecodeRequest",
    "TeiSimilarityParameters",
)


def bound_tei(schemas: dict[str, Any], models: Sequence[ServedModel], limits: Limits) -> None:
    """Write the limits into those of TEI's `schemas`, by name, that are there."""
    for name in _BOUNDED:
        properties = schemas.get(name, {"properties": {}})["properties"]
        for field in ("inputs", "ids"):
            for shape in properties.get(field, {"anyOf": []})["anyOf"]:
                if shape["type"] == "array" and shape["items"]["type"] != "integer":
                    shape["maxItems"] = limits.max_inputs
        if models and "prompt_name" in properties:
            names = {"type": "string", "enum": sorted(prompts_of(models[0]))}
            properties["prompt_name"]["anyOf"] = [names, {"type": "null"}]
        if models and "dimensions" in properties:
            low, high = dimension_range(models[0])
            properties["dimensions"]["anyOf"] = [{"type": "integer", "minimum": low, "maximum": high}, {"type": "null"}]
    if "TeiSimilarityInputs" in schemas:
        # The source sentence is an input too.
        schemas["TeiSimilarityInputs"]["properties"]["sentences"]["maxItems"] = limits.max_inputs - 1
