"""The real `openai` client against the running service: what works, and which exception each error raises."""

from __future__ import annotations

import asyncio
import base64

import httpx
import numpy as np
import openai
import pytest

from tests.reference import assert_same, expected, tokenizer
from tests.running import RunningService

pytestmark = pytest.mark.cluster
MODEL = "embedserve/demo"
TEXTS = ["The capital of China is Beijing.", "重力是一种力。", "a", "El gato duerme. " * 40]


@pytest.fixture(scope="module")
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=service.base_url, api_key="EMPTY", max_retries=0)


def vectors(reply: openai.types.CreateEmbeddingResponse) -> np.ndarray:
    return np.array([item.embedding for item in reply.data], np.float32)


def test_default_encoding_gives_the_models_vectors(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(model=MODEL, input=TEXTS)
    assert_same(vectors(reply), expected(TEXTS))
    np.testing.assert_allclose(np.linalg.norm(vectors(reply), axis=1), 1.0, atol=1e-5)
    assert [item.index for item in reply.data] == list(range(len(TEXTS)))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(map(len, tokenizer().encode_batch(TEXTS)))
    assert reply.model == MODEL


def test_float_and_base64_are_the_same_vectors(client: openai.OpenAI, service: RunningService) -> None:
    assert_same(
        vectors(client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")), expected(TEXTS[:1])
    )
    body = {"model": MODEL, "input": TEXTS[0], "encoding_format": "base64"}
    raw = httpx.post(f"{service.base_url}/embeddings", json=body).json()["data"][0]["embedding"]
    assert_same([np.frombuffer(base64.b64decode(raw), "<f4")], expected(TEXTS[:1]))


@pytest.mark.parametrize("name", ["demo", "DEMO", "EmbedServe/Demo"])
def test_the_model_is_found_by_its_name_alone(client: openai.OpenAI, name: str) -> None:
    assert client.embeddings.create(model=name, input="a").model == MODEL


def test_dimensions_are_cut_and_normalised_again(client: openai.OpenAI) -> None:
    cut = expected(TEXTS)[:, :64]
    got = vectors(client.embeddings.create(model=MODEL, input=TEXTS, dimensions=64))
    assert_same(got, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_token_ids_are_the_models_own(client: openai.OpenAI) -> None:
    ids = [row.tolist() for row in tokenizer().encode_batch(TEXTS)]
    without_end = [row[:-1] for row in ids]
    assert_same(vectors(client.embeddings.create(model=MODEL, input=ids)), expected(TEXTS))
    assert_same(vectors(client.embeddings.create(model=MODEL, input=without_end)), expected(TEXTS))
    assert_same(vectors(client.embeddings.create(model=MODEL, input=ids[0])), expected(TEXTS[:1]))


def test_instruction(client: openai.OpenAI) -> None:
    task = "Given a web search query, retrieve relevant passages that answer the query"
    reply = client.embeddings.create(model=MODEL, input=TEXTS, extra_body={"instruction": task})
    assert_same(vectors(reply), expected(TEXTS, task))
    full = [f"Instruct: {task}\nQuery:{text}" for text in TEXTS]
    assert reply.usage.prompt_tokens == sum(map(len, tokenizer().encode_batch(full)))


def test_truncation_only_when_asked(client: openai.OpenAI) -> None:
    text = "word " * 9000
    ids = tokenizer().encode(text)
    with pytest.raises(openai.BadRequestError, match="exceeds maximum allowed length 8192"):
        client.embeddings.create(model=MODEL, input=text)
    from tests.reference import engine

    for side, kept in (("end", ids[:8191]), ("start", ids[-8192:-1])):
        reply = client.embeddings.create(model=MODEL, input=text, extra_body={"truncate": side})
        assert_same(vectors(reply), engine().encode([np.append(kept, ids[-1])]))
        assert reply.usage.prompt_tokens == 8192


def test_2048_inputs_in_order(client: openai.OpenAI) -> None:
    texts = [f"input number {n} " + "and more " * (n % 40) for n in range(2048)]
    got = vectors(client.embeddings.create(model=MODEL, input=texts))
    sample = list(range(0, 2048, 97))
    assert_same(got[sample], expected([texts[n] for n in sample]))


async def test_async_client_under_concurrency(service: RunningService) -> None:
    texts = [f"concurrent text {n}" for n in range(200)]
    async with openai.AsyncOpenAI(base_url=service.base_url, api_key="anything") as client:
        replies = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in texts))
    assert_same(np.concatenate([vectors(reply) for reply in replies]), expected(texts))


@pytest.mark.parametrize(
    ("request_", "error", "message", "param", "code"),
    [
        ({"input": "a", "model": "gpt-4"}, openai.NotFoundError, "embedserve/demo", "model", "model_not_found"),
        ({"input": ""}, openai.BadRequestError, "input", "input", None),
        ({"input": []}, openai.BadRequestError, "input", "input", None),
        ({"input": ["a"] * 2049}, openai.BadRequestError, "2048", "input", None),
        ({"input": "a", "dimensions": 7}, openai.BadRequestError, "32", "dimensions", None),
        ({"input": "a", "dimensions": 129}, openai.BadRequestError, "128", "dimensions", None),
        ({"input": "a", "extra_body": {"colour": 1}}, openai.BadRequestError, "colour", "colour", None),
        ({"input": [[999_999]]}, openai.BadRequestError, "999999", "input", None),
        (
            {"input": ["a", "word " * 9000]},
            openai.BadRequestError,
            r"Input length \d+ exceeds maximum allowed length 8192 \(input index 1\)",
            "input",
            None,
        ),
        (
            {"input": ["word " * 4000] * 80},
            openai.BadRequestError,
            "max 300000 tokens per request",
            "input",
            "max_tokens_per_request",
        ),
    ],
)
def test_errors_raise_the_right_class(
    client: openai.OpenAI,
    request_: dict,
    error: type[openai.APIStatusError],
    message: str,
    param: str,
    code: str | None,
) -> None:
    with pytest.raises(error, match=message) as caught:
        client.embeddings.create(**{"model": MODEL, **request_})
    body = caught.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    assert (body["param"], body["code"]) == (param, code)


def test_a_body_over_the_limit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=MODEL, input="a" * (33 * 1024 * 1024))
    assert caught.value.status_code == 413


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_request_id_and_stage_headers_stand_once(service: RunningService) -> None:
    body = {"model": MODEL, "input": "a"}
    reply = httpx.post(f"{service.base_url}/embeddings", json=body, headers={"x-request-id": "mine-1"})
    assert reply.headers.get_list("x-request-id") == ["mine-1"]
    for name in ("openai-processing-ms", "x-tokenize-ms", "x-queue-ms", "x-inference-ms", "x-render-ms"):
        assert float(reply.headers[name]) >= 0
    assert len(httpx.post(f"{service.base_url}/embeddings", json=body).headers.get_list("x-request-id")) == 1
