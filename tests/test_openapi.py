"""The OpenAPI document against what is really served."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

from serve_app.api.app import build_app
from serve_app.api.cohere import parse_v1, parse_v2
from serve_app.api.models import Models
from serve_app.api.openai import parse
from serve_app.api.tei import TeiSimilarityInputs, TeiSimilarityParameters, TeiSimilarityRequest
from serve_app.errors import RequestError
from serve_app.types import EmbedJob, EmbedResult, Limits, ServedModel, TokenIds, Tokenized, TokenVectors

MODEL = ServedModel("Qwen/Qwen3-Embedding-0.6B", 64, 512)
BODY = {"input": "hello", "model": MODEL.id}
BODIES: dict[str, dict[str, Any]] = {
    "/v2/embed": {"texts": ["hello"], "model": MODEL.id, "input_type": "search_query"},
    "/v1/embed": {"texts": ["hello"], "model": MODEL.id, "input_type": "search_query"},
    "/embed": {"inputs": "hello"},
    "/": {"inputs": "hello"},
    "/similarity": {"inputs": {"source_sentence": "hello", "sentences": ["you"]}},
    "/embed_all": {"inputs": "hello"},
    "/tokenize": {"inputs": "hello"},
    "/decode": {"ids": [1]},
}


class Ones:
    """A service whose vectors are all ones, and which is as well as `reason` says."""

    version = "1.2.3"
    models = (MODEL,)
    limits = Limits(max_inputs=3)
    reason: str | None = None

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        return EmbedResult(np.ones((len(job), job.dimensions or 64), dtype=np.float32), 1)

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        lengths = np.ones(len(job), np.int32)
        return TokenVectors(np.ones((len(job), 64), np.float32), len(job), lengths=lengths)

    async def tokenize(self, texts: list[str], prompt: str | None, add_special_tokens: bool) -> list[Tokenized]:
        return [Tokenized(text, [1, 0], [(0, len(text)), (0, 0)], {1: "<end>"}) for text in texts]

    async def decode(self, token_ids: list[TokenIds], skip_special_tokens: bool) -> list[str]:
        return ["a" for _ in token_ids]

    async def health(self) -> str | None:
        return self.reason

    async def ready(self) -> str | None:
        return self.reason


SERVICE = Ones()
APP = build_app(SERVICE)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://test") as client:
        yield client


@pytest.fixture
async def document(http: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await http.get("/openapi.json")).json())


def schema(document: dict[str, Any], name: str) -> Draft202012Validator:
    Draft202012Validator.check_schema(document["components"]["schemas"][name])
    return Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})


async def test_every_route_is_documented_and_no_other(document: dict[str, Any]) -> None:
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert documented == {(route.method, route.path) for route in APP.router.routes}
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["version"] == "1.2.3"


async def test_every_reference_has_its_schema(document: dict[str, Any]) -> None:
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert used == set(document["components"]["schemas"])


async def test_every_field_of_every_request_is_described(document: dict[str, Any]) -> None:
    requests = {route.request for route in APP.router.routes if route.request is not None}
    assert len(requests) == 8
    for struct in {*requests, TeiSimilarityInputs, TeiSimilarityParameters} - {TeiSimilarityRequest}:
        properties = document["components"]["schemas"][struct.__name__]["properties"]
        assert sorted(properties) == sorted(struct.__struct_fields__)
        assert [name for name, field in properties.items() if not field.get("description")] == []


async def test_what_precedes_a_text_is_described_alike(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for struct in (
        "EmbeddingsRequest",
        "TeiEmbedRequest",
        "TeiEmbedAllRequest",
        "TeiSimilarityParameters",
        "EmbedRequest",
    ):
        assert (
            "`Instruct: …\\nQuery:` precedes every text" in schemas[struct]["properties"]["instruction"]["description"]
        )
        if struct != "EmbedRequest":
            assert "`GET /v1/models` lists them" in schemas[struct]["properties"]["prompt_name"]["description"]


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ({}, True),
        ({"input": ["a", "b"]}, True),
        ({"input": [1, 2]}, True),
        ({"input": [[1], [2, 3]]}, True),
        ({"dimensions": 32, "encoding_format": "base64", "user": "u"}, True),
        ({"instruction": "Find", "truncate": "start", "truncate_prompt_tokens": 512, "priority": "bulk"}, True),
        ({"truncate_prompt_tokens": -1}, True),
        ({"dimensions": None, "encoding_format": None, "priority": None, "truncate": None, "user": None}, True),
        ({"input": ""}, False),
        ({"input": []}, False),
        ({"input": ["a", ""]}, False),
        ({"input": ["a", 1]}, False),
        ({"input": [[1], []]}, False),
        ({"input": [-1]}, False),
        ({"input": [2**31]}, False),
        ({"input": [1.5]}, False),
        ({"input": [True]}, False),
        ({"input": [[[1]]]}, False),
        ({"input": None}, False),
        ({"input": {}}, False),
        ({"input": ["a"] * 4}, False),
        ({"input": [[1]] * 4}, False),
        ({"input": [1] * 4}, True),
        ({"model": None}, False),
        ({"dimensions": 31}, False),
        ({"dimensions": 65}, False),
        ({"dimensions": "64"}, False),
        ({"encoding_format": "int4"}, False),
        ({"encoding_format": "int8"}, True),
        ({"encoding_format": "base64_ubinary"}, True),
        ({"encoding_format": "base64_float"}, False),
        ({"encoding_format": "bytes"}, True),
        ({"encoding_format": "bytes_only"}, True),
        ({"prompt_name": "query"}, True),
        ({"prompt_name": "no"}, False),
        ({"input_type": "search_query"}, True),
        ({"input_type": "image"}, False),
        ({"instruction": "a" * 4096}, True),
        ({"instruction": "a" * 4097}, False),
        ({"truncate": "END"}, False),
        ({"truncate_prompt_tokens": 0}, False),
        ({"truncate_prompt_tokens": -2}, False),
        ({"truncate_prompt_tokens": 513}, False),
        ({"priority": 0}, False),
        ({"user": 1}, False),
        ({"unknown": 1}, False),
    ],
)
async def test_the_schema_accepts_what_the_parser_accepts(
    document: dict[str, Any], fields: dict[str, Any], accepted: bool
) -> None:
    body = {**BODY, **fields}
    assert schema(document, "EmbeddingsRequest").is_valid(body) is accepted
    try:
        parse(json.dumps(body).encode(), Models([MODEL]), SERVICE.limits)
        parsed = True
    except RequestError:
        parsed = False
    assert parsed is accepted


@pytest.mark.parametrize(
    ("path", "fields", "accepted"),
    [
        ("/embed", {}, True),
        ("/embed", {"normalize": True, "truncate": True, "truncation_direction": "left", "dimensions": 32}, True),
        ("/embed", {"normalize": None, "truncate": None, "truncation_direction": None, "dimensions": None}, True),
        ("/embed", {"prompt_name": "query"}, True),
        ("/embed", {"instruction": "Find"}, True),
        ("/embed", {"inputs": [1, 2, 3, 4]}, True),
        ("/embed", {"inputs": ["a"] * 4}, False),
        ("/embed", {"inputs": [[1]] * 4}, False),
        ("/embed", {"inputs": []}, False),
        ("/embed", {"inputs": ["a", 1]}, False),
        ("/embed", {"normalize": False}, False),
        ("/embed", {"truncate": 1}, False),
        ("/embed", {"truncation_direction": "up"}, False),
        ("/embed", {"dimensions": 31}, False),
        ("/embed", {"prompt_name": "sing"}, False),
        ("/embed", {"instruction": "x" * 4097}, False),
        ("/embed", {"model": MODEL.id}, False),
        ("/similarity", {}, True),
        ("/similarity", {"parameters": {"truncate": True, "prompt_name": "query"}}, True),
        ("/similarity", {"parameters": {"prompt_name": "sing"}}, False),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"] * 2}}, True),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"] * 3}}, False),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, False),
        ("/similarity", {"inputs": {"source_sentence": "", "sentences": ["b"]}}, False),
        ("/tokenize", {}, True),
        ("/tokenize", {"add_special_tokens": False, "prompt_name": "query"}, True),
        ("/tokenize", {"inputs": [1]}, False),
        ("/tokenize", {"inputs": ["a"] * 4}, False),
        ("/decode", {}, True),
        ("/decode", {"ids": [[1], [2]], "skip_special_tokens": False}, True),
        ("/decode", {"ids": "a"}, False),
        ("/decode", {"ids": [-1]}, False),
        ("/decode", {"ids": [[1]] * 4}, False),
    ],
)
async def test_teis_schemas_accept_what_is_accepted(
    http: httpx.AsyncClient, document: dict[str, Any], path: str, fields: dict[str, Any], accepted: bool
) -> None:
    body = BODIES[path] | fields
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert Draft202012Validator({**document, **content["schema"]}).is_valid(body) is accepted
    assert ((await http.post(path, json=body)).status_code == 200) is accepted


@pytest.mark.parametrize("missing", ["input", "model"])
async def test_required_fields(document: dict[str, Any], missing: str) -> None:
    assert not schema(document, "EmbeddingsRequest").is_valid({k: v for k, v in BODY.items() if k != missing})


@pytest.mark.parametrize("reason", [None, "no replica"])
async def test_replies_match_their_schemas(
    http: httpx.AsyncClient, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    monkeypatch.setattr(SERVICE, "reason", reason)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = BODIES.get(path, BODY)
            reply = await http.request(method, path.replace("{model}", MODEL.id), json=body)
            assert reply.status_code == 200 or reason is not None
            (media_type, content), *_ = operation["responses"][str(reply.status_code)]["content"].items()
            assert reply.headers["content-type"].startswith(media_type)
            if content:
                Draft202012Validator({**document, **content["schema"]}).validate(reply.json())


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_both_formats_match_the_schema(
    http: httpx.AsyncClient, document: dict[str, Any], encoding_format: str
) -> None:
    reply = await http.post("/v1/embeddings", json={**BODY, "encoding_format": encoding_format})
    schema(document, "EmbeddingsReply").validate(reply.json())


async def test_what_to_do_about_overload_and_deadlines_is_documented(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/embeddings"]["post"]
    for status in ("408", "429", "503"):
        assert set(operation["responses"][status]["headers"]) == {"retry-after", "retry-after-ms", "x-should-retry"}
    assert "headers" not in operation["responses"]["500"]
    [parameter] = operation["parameters"]
    assert (parameter["name"], parameter["in"]) == ("x-request-timeout-seconds", "header")
    seconds = Draft202012Validator(parameter["schema"])
    assert [seconds.is_valid(value) for value in (0.1, 30, 0, -1)] == [True, True, False, False]


COHERE = {"model": MODEL.id, "input_type": "search_document", "texts": ["a"]}
PART = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ({}, True),
        ({"texts": ["a"] * 4}, False),
        ({"texts": []}, False),
        ({"texts": [""]}, False),
        ({"texts": "a"}, False),
        ({"texts": [1]}, False),
        ({"texts": None, "inputs": [{"content": [PART, PART]}]}, True),
        ({"inputs": [{"content": [PART]}]}, False),
        ({"texts": None}, False),
        ({"texts": None, "inputs": [{"content": []}]}, False),
        ({"texts": None, "inputs": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, False),
        ({"images": []}, True),
        ({"images": ["data:"]}, False),
        ({"input_type": "clustering", "instruction": "Sort"}, True),
        ({"input_type": "image"}, False),
        ({"input_type": "search"}, False),
        ({"embedding_types": ["float", "int8", "uint8", "binary", "ubinary", "base64"]}, True),
        ({"embedding_types": ["float16"]}, False),
        ({"embedding_types": None, "output_dimension": None, "truncate": None, "priority": None}, True),
        ({"output_dimension": 64, "max_tokens": 1, "truncate": "NONE", "priority": 999}, True),
        ({"output_dimension": 65}, False),
        ({"output_dimension": 31}, False),
        ({"max_tokens": 0}, False),
        ({"truncate": "end"}, False),
        ({"priority": 1000}, False),
        ({"model": 1}, False),
        ({"unknown": 1}, False),
    ],
)
@pytest.mark.parametrize(("name", "parse_"), [("EmbedRequest", parse_v2), ("EmbedRequestV1", parse_v1)])
async def test_cohere_s_schemas_accept_what_the_parsers_accept(
    document: dict[str, Any], name: str, parse_: Any, fields: dict[str, Any], accepted: bool
) -> None:
    body = {**COHERE, **fields}
    assert schema(document, name).is_valid(body) is accepted
    try:
        parse_(json.dumps(body).encode(), Models([MODEL]), SERVICE.limits)
        parsed = True
    except RequestError:
        parsed = False
    assert parsed is accepted


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/v2/embed", {}, "EmbedReply"),
        ("/v2/embed", {"embedding_types": ["float", "int8", "uint8", "binary", "ubinary", "base64"]}, "EmbedReply"),
        ("/v1/embed", {"embedding_types": ["int8"]}, "EmbedReply"),
        ("/v1/embed", {}, "EmbedFloatsReply"),
        ("/v1/embed", {"texts": ""}, "CohereError"),
        ("/v2/embed", {"model": "no"}, "CohereError"),
    ],
)
async def test_cohere_s_replies_match_their_schemas(
    http: httpx.AsyncClient, document: dict[str, Any], path: str, fields: dict[str, Any], name: str
) -> None:
    reply = await http.post(path, json={**COHERE, **fields})
    schema(document, name).validate(reply.json())
    content = document["paths"][path]["post"]["responses"][str(reply.status_code)]["content"]
    assert f"#/components/schemas/{name}" in json.dumps(content)


async def test_cohere_s_required_fields(document: dict[str, Any]) -> None:
    for field in COHERE:
        body = {k: v for k, v in COHERE.items() if k != field}
        assert not schema(document, "EmbedRequest").is_valid(body)
        assert schema(document, "EmbedRequestV1").is_valid(body) is (field != "texts")


async def test_every_error_that_a_request_can_end_with_is_documented(document: dict[str, Any]) -> None:
    statuses = {kind.status for kind in every(RequestError)} - {405}  # the path and method are the document's own
    assert {str(status) for status in statuses} <= set(document["paths"]["/v1/embeddings"]["post"]["responses"])


def every(kind: type[RequestError]) -> set[type[RequestError]]:
    return {kind, *(below for child in kind.__subclasses__() for below in every(child))}


@pytest.mark.parametrize(("method", "path"), [("GET", "/no"), ("PUT", "/health"), ("POST", "/v1/embeddings")])
async def test_errors_match_their_schema(
    http: httpx.AsyncClient, document: dict[str, Any], method: str, path: str
) -> None:
    reply = await http.request(method, path, json={})
    assert reply.status_code >= 400
    schema(document, "ErrorReply").validate(reply.json())


async def test_the_page_links_only_to_its_own_parts(http: httpx.AsyncClient, document: dict[str, Any]) -> None:
    links, ids = [], set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found = dict(attrs)
            ids.add(found.get("id"))
            links.extend([found[name] for name in ("href", "src") if name in found])

    page = (await http.get("/docs")).text
    Reader().feed(page)
    assert links
    assert {link.removeprefix("#") for link in links if link is not None} <= ids
    assert all(path in page for path in document["paths"])
