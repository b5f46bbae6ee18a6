"""`encoding_format` `bytes` and `bytes_only`: vLLM's bodies without JSON, read as its examples read them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.api.app import Outcome, build_app
from serve_app.api.http import Request
from serve_app.api.openai import MOST_DESCRIBED, EmbeddingsJob
from serve_app.api.openai_reply import headers
from serve_app.types import EmbedResult, Limits
from tests.in_process import HIDDEN, MODEL, InProcess, vector

TEXTS = ["one", "two", "three"]


@pytest.fixture
def service() -> InProcess:
    service = InProcess()
    service.limits = Limits(max_input_tokens=512)
    return service


@pytest.fixture
def outcomes() -> list[Outcome]:
    return []


@pytest.fixture
async def http(service: InProcess, outcomes: list[Outcome]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(service, observe=outcomes.append))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def ask(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await http.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS, **fields})


def wanted(dimensions: int = HIDDEN) -> np.ndarray:
    return np.stack([vector(text, dimensions) for text in TEXTS])


async def test_bytes_are_described_in_a_header(http: httpx.AsyncClient) -> None:
    reply = await ask(http, encoding_format="bytes", dimensions=40)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/octet-stream")
    metadata = json.loads(reply.headers["metadata"])
    assert (metadata["model"], metadata["id"]) == (MODEL, reply.headers["x-request-id"])
    assert metadata["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert [item["index"] for item in metadata["data"]] == [0, 1, 2]
    for item, expected in zip(metadata["data"], wanted(40), strict=True):
        assert (item["embed_dtype"], item["endianness"]) == ("float32", "little")
        found = np.frombuffer(reply.content[item["start"] : item["end"]], "<f4").reshape(item["shape"])
        assert np.array_equal(found, expected)
    assert metadata["data"][-1]["end"] == len(reply.content)


async def test_bytes_only_are_the_vectors_and_nothing_else(http: httpx.AsyncClient, outcomes: list[Outcome]) -> None:
    reply = await ask(http, encoding_format="bytes_only")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/octet-stream")
    assert "metadata" not in reply.headers
    assert np.array_equal(np.frombuffer(reply.content, "<f4").reshape(-1, HIDDEN), wanted())
    [outcome] = outcomes
    assert (outcome.inputs, outcome.prompt_tokens) == (3, 9), "billed like any other"


async def test_the_header_stays_short(http: httpx.AsyncClient, service: InProcess) -> None:
    """Many clients and proxies take none over 8 kB, so more inputs are refused before any work."""
    refused = await ask(http, encoding_format="bytes", input=["a"] * (MOST_DESCRIBED + 1))
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        {
            "message": "'bytes' describes each vector in a header, and takes at most 64 inputs. Ask for 'bytes_only'.",
            "type": "invalid_request_error",
            "param": "encoding_format",
            "code": None,
        },
    )
    assert service.jobs == []
    assert (await ask(http, encoding_format="bytes_only", input=["a"] * (MOST_DESCRIBED + 1))).status_code == 200
    request = Request({"method": "POST", "path": "/v1/embeddings", "headers": []}, http.get)  # type: ignore[arg-type]
    job = EmbeddingsJob("organisation/a-model-é-of-a-long-name", raw="bytes")
    result = EmbedResult(np.zeros((MOST_DESCRIBED, 4096), np.float32), 300_000)
    [(name, value)] = headers(result, job, request)
    assert name == b"metadata"
    assert len(value) < 8000
    assert value.isascii()


@pytest.mark.parametrize("encoding_format", ["bytes", "bytes_only"])
async def test_errors_are_json_all_the_same(http: httpx.AsyncClient, encoding_format: str) -> None:
    reply = await ask(http, encoding_format=encoding_format, dimensions=7)
    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/json")
    assert reply.json()["error"]["param"] == "dimensions"


async def test_the_document_says_so(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert list(document["paths"]["/v1/embeddings"]["post"]["responses"]["200"]["content"]) == [
        "application/json",
        "application/octet-stream",
    ]
    assert "application/octet-stream" in (await http.get("/docs")).text
