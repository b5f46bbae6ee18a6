"""The real `cohere` clients: against the HTTP surface in this process, and against the running service."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import cohere
import httpx
import numpy as np
import pytest
from cohere import errors
from cohere.core.api_error import ApiError
from langchain_cohere import CohereEmbeddings

from serve_app.api.app import build_app
from serve_app.api.prompts import DEFAULT_PROMPTS
from serve_app.api.quantise import quantise
from serve_app.errors import (
    CrashingInputError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from serve_app.types import Limits, OutputType, ServedModel
from tests.in_process import HIDDEN, MODEL, Bridge, InProcess, fail, vector
from tests.reference import assert_same, engine, expected, tokenizer
from tests.running import RunningService

ALIAS = "embed-multilingual-v3.0"
ASK: dict[str, Any] = {"model": ALIAS, "input_type": "search_document"}
URL = "http://test"


@pytest.fixture
def fake() -> InProcess:
    fake = InProcess()
    fake.models = [ServedModel(MODEL, HIDDEN, 512, aliases=(ALIAS,))]
    fake.limits = Limits(max_input_tokens=512)
    return fake


def one(fake: InProcess, kind: type[cohere.Client]) -> Any:
    """A client without asyncio."""
    return kind("key", base_url=URL, httpx_client=httpx.Client(transport=Bridge(build_app(fake))))


def another(fake: InProcess, kind: type[cohere.AsyncClient]) -> Any:
    transport = httpx.ASGITransport(build_app(fake))
    return kind("key", base_url=URL, httpx_client=httpx.AsyncClient(transport=transport))


def wanted(texts: list[str], dimensions: int = HIDDEN) -> np.ndarray:
    return np.stack([vector(text, dimensions) for text in texts])


# --- all four clients


def test_client_v2(fake: InProcess) -> None:
    reply = one(fake, cohere.ClientV2).embed(
        **ASK, texts=["a", "b"], request_options={"additional_headers": {"x-request-id": "r-1"}}
    )
    assert np.array_equal(np.array(reply.embeddings.float_, np.float32), wanted(["a", "b"]))
    assert (reply.id, reply.texts, reply.response_type) == ("r-1", ["a", "b"], "embeddings_by_type")
    assert (reply.meta.api_version.version, reply.meta.billed_units.input_tokens) == ("2", 6)
    assert reply.meta.warnings is None


async def test_async_client_v2(fake: InProcess) -> None:
    reply = await another(fake, cohere.AsyncClientV2).embed(**ASK, texts=["a", "b"], output_dimension=32)
    assert np.array_equal(np.array(reply.embeddings.float_, np.float32), wanted(["a", "b"], 32))


def test_client_v1_without_types(fake: InProcess) -> None:
    reply = one(fake, cohere.Client).embed(texts=["a", "b"])
    assert reply.response_type == "embeddings_floats"
    assert np.array_equal(np.array(reply.embeddings, np.float32), wanted(["a", "b"]))
    assert reply.meta.api_version.version == "1"


async def test_async_client_v1_with_types(fake: InProcess) -> None:
    reply = await another(fake, cohere.AsyncClient).embed(**ASK, texts=["a"], embedding_types=["int8", "float"])
    assert reply.response_type == "embeddings_by_type"
    assert np.array_equal(reply.embeddings.int8, quantise(wanted(["a"]), OutputType.INT8))
    assert np.array_equal(np.array(reply.embeddings.float_, np.float32), wanted(["a"]))


def test_the_v1_client_splits_by_96_and_merges(fake: InProcess) -> None:
    texts = [f"text {n}" for n in range(200)]
    plain = one(fake, cohere.Client).embed(**ASK, texts=texts)
    assert sorted(len(job) for job, _ in fake.jobs) == [8, 96, 96]
    assert np.array_equal(np.array(plain.embeddings, np.float32), wanted(texts))
    assert (plain.texts, plain.meta.billed_units.input_tokens) == (texts, 600)
    typed = one(fake, cohere.Client).embed(**ASK, texts=texts, embedding_types=["ubinary", "binary"])
    assert np.array_equal(typed.embeddings.ubinary, quantise(wanted(texts), OutputType.UBINARY))
    assert np.array_equal(typed.embeddings.binary, quantise(wanted(texts), OutputType.BINARY))


def test_every_type_at_once(fake: InProcess) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    reply = one(fake, cohere.ClientV2).embed(**ASK, texts=["a"], embedding_types=kinds)
    for kind in kinds[1:5]:
        assert np.array_equal(getattr(reply.embeddings, kind), quantise(wanted(["a"]), OutputType(kind)))
    raw = base64.b64decode(reply.embeddings.base64[0])
    assert np.array_equal(np.frombuffer(raw, "<f4"), wanted(["a"])[0])


def test_inputs_max_tokens_priority_truncate(fake: InProcess) -> None:
    def cut() -> None:
        fake.jobs[-1][0].truncated = 1

    fake.before = cut
    reply = one(fake, cohere.ClientV2).embed(
        model=ALIAS,
        input_type="classification",
        inputs=[{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        max_tokens=10,
        priority=5,
        truncate="START",
        request_options={"additional_body_parameters": {"instruction": "Sort it"}},
    )
    job = fake.jobs[0][0]
    assert (job.texts, job.prompt, job.truncate, job.truncate_to, job.priority) == (
        ["a\nb"],
        "Instruct: Sort it\nQuery:",
        "start",
        10,
        1,
    )
    assert reply.meta.warnings == [
        "1 of 1 inputs had more than 10 tokens and lost their start. Send truncate=NONE to have such requests refused."
    ]


def test_langchain(fake: InProcess) -> None:
    embeddings = CohereEmbeddings(model=ALIAS, cohere_api_key="key", base_url=URL)
    embeddings.client, embeddings.async_client = one(fake, cohere.Client), None
    texts = [f"text {n}" for n in range(100)]
    assert np.array_equal(np.array(embeddings.embed_documents(texts), np.float32), wanted(texts))
    assert np.array_equal(np.array(embeddings.embed_query("q"), np.float32), wanted(["q"])[0])
    assert [job.prompt for job, _ in fake.jobs] == [None, None, DEFAULT_PROMPTS["query"]]


# --- what goes wrong


class RefusedError(InvalidRequestError):
    """An error with any status."""

    def __init__(self, status: int, code: str | None) -> None:
        super().__init__("as it is", None, code)
        self.status = status


NO_IMAGES = "invalid request: this model embeds text only: send 'texts', or 'inputs' with parts of type text"
DIMENSIONS = f"invalid request: 'output_dimension' must be from 32 to 64 for the model '{MODEL}'."
NOT_FOUND = (
    "model 'embed-english-v3.0' not found, make sure the correct model ID was used and that you have access to the model. "
    f"Served here: '{MODEL}'; the setting model_aliases gives it other names."
)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        (
            {"texts": ["a"] * 104},
            errors.BadRequestError,
            "invalid request: total number of texts must be at most 96 - received 104",
        ),
        (
            {"texts": [""]},
            errors.BadRequestError,
            "invalid request: inputs contains an element that is the empty string at index 0",
        ),
        ({"input_type": "image"}, errors.BadRequestError, NO_IMAGES),
        ({"output_dimension": 1536}, errors.BadRequestError, DIMENSIONS),
        ({"model": "embed-english-v3.0"}, errors.NotFoundError, NOT_FOUND),
    ],
)
def test_bad_requests(fake: InProcess, fields: dict[str, Any], kind: type[ApiError], message: str) -> None:
    with pytest.raises(kind) as caught:
        one(fake, cohere.ClientV2).embed(**{"texts": ["a"], **ASK, **fields})
    assert caught.value.body["message"] == message
    assert list(caught.value.body) == ["message", "id"]
    assert caught.value.headers is not None
    assert caught.value.headers["x-request-id"] == caught.value.body["id"]
    assert not fake.jobs


CONSTANT_500 = "The server had an error while processing your request. Quote the x-request-id header."


@pytest.mark.parametrize(
    ("raised", "kind", "status", "message"),
    [
        (RefusedError(401, None), errors.UnauthorizedError, 401, "no api key supplied"),
        (RefusedError(401, "invalid_api_key"), errors.UnauthorizedError, 401, "invalid api token"),
        (RefusedError(403, None), errors.ForbiddenError, 403, "as it is"),
        (RefusedError(413, "request_too_large"), ApiError, 413, "as it is"),
        (
            CrashingInputError(3),
            errors.UnprocessableEntityError,
            422,
            "Input 3 made every replica that computed it crash, the last one by itself. Send the request without it.",
        ),
        (OverloadedError("Full.", 2.0), errors.TooManyRequestsError, 429, "Full."),
        (ValueError("secret"), errors.InternalServerError, 500, CONSTANT_500),
        (UnavailableError("No replica."), errors.ServiceUnavailableError, 503, "No replica."),
        (DeadlineExceededError("Too late."), errors.GatewayTimeoutError, 504, "Too late."),
    ],
)
@pytest.mark.parametrize("client", [cohere.Client, cohere.ClientV2, cohere.AsyncClient, cohere.AsyncClientV2])
async def test_errors_from_below(
    fake: InProcess, client: Any, raised: Exception, kind: type[ApiError], status: int, message: str
) -> None:
    fake.before = fail(raised)
    ask = {**ASK, "texts": ["a"], "request_options": {"max_retries": 0}}
    with pytest.raises(kind) as caught:
        if "Async" in client.__name__:
            await another(fake, client).embed(**ask)
        else:
            await asyncio.to_thread(lambda: one(fake, client).embed(**ask))
    assert (caught.value.status_code, caught.value.body["message"]) == (status, message)
    retried = isinstance(raised, RequestError) and status in (429, 503, 504)
    assert ("retry-after" in (caught.value.headers or {})) is retried


def test_what_passes_is_retried_when_it_is_due(fake: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("cohere.core.http_client.time.sleep", waited.append)
    left: list[Callable[[], None]] = [fail(OverloadedError("Full.", 3.0)), fail(OverloadedError("Full.", 2.0))]
    fake.before = lambda: left.pop()() if left else None
    reply = one(fake, cohere.ClientV2).embed(**ASK, texts=["a"])
    assert np.array_equal(np.array(reply.embeddings.float_, np.float32), wanted(["a"]))
    assert waited == [2.0, 3.0]


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
async def test_a_wrong_method_and_media_type_in_cohere_s_words(fake: InProcess, path: str) -> None:
    transport = httpx.ASGITransport(build_app(fake))
    async with httpx.AsyncClient(transport=transport, base_url=URL, headers={"x-request-id": "r"}) as http:
        wrong = [await http.get(path), await http.post(path, content=b"a", headers={"content-type": "text/plain"})]
    assert [(reply.status_code, reply.json()) for reply in wrong] == [
        (405, {"message": f"{path} takes POST, OPTIONS, not GET.", "id": "r"}),
        (415, {"message": "The body must be JSON: send it with 'Content-Type: application/json'.", "id": "r"}),
    ]


# --- the running service


@pytest.mark.cluster
def test_the_running_service(service: RunningService) -> None:
    url = service.base_url.removesuffix("/v1")
    texts = ["The capital of China is Beijing.", "重力是一种力。"]
    with cohere.ClientV2("key", base_url=url) as client:
        documents = client.embed(model="demo", input_type="search_document", texts=texts)
        assert_same(documents.embeddings.float_, expected(texts))
        queries = client.embed(model="demo", input_type="search_query", texts=texts, embedding_types=["float", "int8"])
        prompted = [DEFAULT_PROMPTS["query"] + text for text in texts]
        assert_same(queries.embeddings.float_, expected(prompted))
        assert queries.meta is not None and queries.meta.billed_units is not None
        assert queries.meta.billed_units.input_tokens == sum(map(len, tokenizer().encode_batch(prompted)))

        ids = tokenizer().encode("word " * 9000)
        cut = client.embed(model="demo", input_type="search_document", texts=["a", "word " * 9000])
        assert_same(cut.embeddings.float_[1], engine().encode([np.append(ids[:8191], ids[-1])])[0])
        assert cut.meta is not None
        assert cut.meta.warnings == [
            "1 of 2 inputs had more than 8192 tokens and lost their end. Send truncate=NONE to have such requests refused."
        ]
        with pytest.raises(errors.BadRequestError, match=f"invalid request: Input length {len(ids)} exceeds"):
            client.embed(model="demo", input_type="search_document", texts=["word " * 9000], truncate="NONE")
    with cohere.Client("key", base_url=url) as old:
        many = [f"text number {n}" for n in range(100)]
        assert_same(old.embed(texts=many, model="demo", input_type="search_document").embeddings, expected(many))
