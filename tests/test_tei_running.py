"""TEI's routes of the running service, through HAProxy and a real gateway."""

from __future__ import annotations

import httpx
import pytest
from huggingface_hub import InferenceClient

from tests.reference import assert_same, engine, expected, tokenizer
from tests.running import RunningService

pytestmark = pytest.mark.cluster
TEXTS = ["The capital of China is Beijing.", "重力是一种力。"]


def test_vectors_and_headers(service: RunningService) -> None:
    assert_same(InferenceClient(service.url).feature_extraction(TEXTS), expected(TEXTS))  # type: ignore[arg-type]
    reply = httpx.post(f"{service.url}/embed", json={"inputs": TEXTS})
    assert_same(reply.json(), expected(TEXTS))
    assert reply.headers["x-compute-type"] == "cpu"
    assert reply.headers["x-compute-tokens"] == str(sum(map(len, tokenizer().encode_batch(TEXTS))))
    assert {"x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"} <= set(
        reply.headers
    )


def test_vectors_of_all_tokens(service: RunningService) -> None:
    ids = tokenizer().encode_batch(TEXTS)
    reply = httpx.post(f"{service.url}/embed_all", json={"inputs": TEXTS})
    for found, wanted in zip(reply.json(), engine().launch_tokens(ids)(), strict=True):
        assert_same(found, wanted)
    assert reply.headers["x-compute-tokens"] == str(sum(map(len, ids)))
    # More than one chunk holds, in a request of several megabytes of JSON.
    long = "word " * 1500
    [found] = httpx.post(f"{service.url}/embed_all", json={"inputs": long}, timeout=60).json()
    [wanted] = engine().launch_tokens(tokenizer().encode_batch([long]))()
    assert_same(found, wanted)


def test_tokens_there_and_back(service: RunningService) -> None:
    # Large enough to go through threads.
    texts = [text * 2000 for text in TEXTS]
    found = httpx.post(f"{service.url}/tokenize", json={"inputs": texts}, timeout=60).json()
    ids = [[token["id"] for token in tokens] for tokens in found]
    assert ids == [row.tolist() for row in tokenizer().encode_batch(texts)]
    assert httpx.post(f"{service.url}/decode", json={"ids": ids}, timeout=60).json() == texts


def test_info(service: RunningService) -> None:
    info = httpx.get(f"{service.url}/info").json()
    assert info["model_id"] == "embedserve/demo"
    assert (info["model_dtype"], info["max_batch_tokens"], info["max_batch_requests"]) == ("float32", 2048, 512)
    assert (info["max_input_length"], info["max_client_batch_size"], info["auto_truncate"]) == (8192, 2048, False)


def test_an_input_over_the_limit(service: RunningService) -> None:
    reply = httpx.post(f"{service.url}/", json={"inputs": "word " * 9000})
    assert reply.status_code == 422
    assert reply.json()["error"].startswith(
        "Input validation error: `inputs` must have less than 8192 tokens. Given: 9002"
    )


def test_the_dialect_is_counted(service: RunningService) -> None:
    httpx.post(f"{service.url}/embed", json={"inputs": "a"}).raise_for_status()
    shown = httpx.get(f"{service.url}/metrics").text
    assert 'embedserve_requests_total{dialect="tei",model="embedserve/demo",status="200"}' in shown
