"""The clients that people point at TEI, as they are, against our routes on a real port: huggingface_hub and LlamaIndex.

LangChain's `HuggingFaceEndpointEmbeddings` can't be installed beside huggingface_hub 2; all that it does is to call the two methods of
`InferenceClient` tried here, with newlines replaced by spaces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from serve_app.api.app import build_app
from serve_app.errors import OverloadedError, UnavailableError
from tests.demo_service import DemoService, listening
from tests.reference import assert_same, engine, expected, tokenizer

TEXTS = ["The capital of China is Beijing.", "重力是一种力。", "a"]


@pytest.fixture(scope="module")
def service() -> DemoService:
    return DemoService()


@pytest.fixture(scope="module")
def url(service: DemoService) -> Iterator[str]:
    with listening(build_app(service)) as url:
        yield url


@pytest.mark.parametrize("path", ["", "/", "/embed"])
def test_feature_extraction(url: str, path: str) -> None:
    client = InferenceClient(url + path)
    assert_same(client.feature_extraction(TEXTS), expected(TEXTS))  # type: ignore[arg-type]
    assert_same(client.feature_extraction(TEXTS[0]), expected(TEXTS[:1]))


def test_the_url_may_be_called_model_or_base_url(url: str) -> None:
    assert_same(InferenceClient(base_url=url).feature_extraction("a"), expected(["a"]))
    assert_same(InferenceClient(model=url).feature_extraction("a"), expected(["a"]))
    assert_same(InferenceClient().feature_extraction("a", model=url), expected(["a"]))


async def test_feature_extraction_async(url: str) -> None:
    async with AsyncInferenceClient(url) as client:
        assert_same(await client.feature_extraction(TEXTS), expected(TEXTS))  # type: ignore[arg-type]


def test_every_option_of_feature_extraction(url: str) -> None:
    client = InferenceClient(url)
    cut = expected(TEXTS[:1])[:, :64]
    got = client.feature_extraction(TEXTS[0], normalize=True, dimensions=64)
    assert_same(got, cut / np.linalg.norm(cut, axis=1, keepdims=True))
    task = "Given a web search query, retrieve relevant passages that answer the query"
    assert_same(client.feature_extraction(TEXTS[0], prompt_name="query"), expected(TEXTS[:1], task))
    long = "word " * 600
    ids = tokenizer().encode(long)
    for direction, kept in (("right", ids[:511]), ("left", ids[-512:-1])):
        got = client.feature_extraction(long, truncate=True, truncation_direction=direction)  # type: ignore[arg-type]
        assert_same(got, engine().encode([np.append(kept, ids[-1])]))


def test_sentence_similarity(url: str) -> None:
    client = InferenceClient(url + "/similarity")
    source, *others = expected(TEXTS)
    got = client.sentence_similarity(TEXTS[0], TEXTS[1:])
    assert got == pytest.approx([float(source @ other) for other in others], abs=1e-5)


async def test_sentence_similarity_async(url: str) -> None:
    async with AsyncInferenceClient(url + "/similarity") as client:
        assert await client.sentence_similarity(TEXTS[0], TEXTS[:1]) == pytest.approx([1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "options", "status", "said"),
    [
        ("", {}, 422, "the string is empty"),
        ([], {}, 400, "the list is empty"),
        ("word " * 600, {}, 422, "`inputs` must have less than 512 tokens. Given: 602"),
        ("a", {"normalize": False}, 422, "'normalize' can't be false"),
        ("a", {"dimensions": 7}, 422, "'dimensions' must be from 32 to 128"),
        ("a", {"prompt_name": "sing"}, 422, "'prompt_name' must be"),
        ("a", {"encoding_format": "base64"}, 422, "POST /v1/embeddings writes base64 too"),
    ],
)
def test_refusals_raise_the_clients_error_with_our_words(
    url: str, text: object, options: dict[str, object], status: int, said: str
) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(url).feature_extraction(text, **options)  # type: ignore[arg-type]
    assert caught.value.response.status_code == status
    assert set(caught.value.response.json()) == {"error", "error_type"}
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("trouble", "status"), [(OverloadedError("Too much.", 2.5), 429), (UnavailableError("Not now."), 503)]
)
def test_overload_and_shutdown_raise_at_once(
    url: str, service: DemoService, trouble: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "trouble", trouble)
    with pytest.raises(HfHubHTTPError, match=str(trouble)) as caught:
        InferenceClient(url).feature_extraction("a")
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["retry-after"] in ("1", "3")


def test_llama_index(url: str) -> None:
    model = TextEmbeddingsInference(model_name="Qwen/Qwen3-Embedding-0.6B", base_url=url)
    assert_same(model.get_text_embedding_batch(TEXTS), expected(TEXTS))
    assert_same([model.get_query_embedding(TEXTS[0])], expected(TEXTS[:1]))


async def test_llama_index_async(url: str) -> None:
    model = TextEmbeddingsInference(model_name="Qwen/Qwen3-Embedding-0.6B", base_url=url)
    assert_same(await model.aget_text_embedding_batch(TEXTS), expected(TEXTS))
    assert_same([await model.aget_query_embedding(TEXTS[0])], expected(TEXTS[:1]))


def test_llama_index_cuts_long_texts_unless_told_not_to(url: str) -> None:
    long = "word " * 600
    ids = tokenizer().encode(long)
    model = TextEmbeddingsInference(model_name="demo", base_url=url)
    assert_same([model.get_text_embedding(long)], engine().encode([np.append(ids[:511], ids[-1])]))


def test_llama_index_takes_an_instruction_before_the_text(url: str) -> None:
    model = TextEmbeddingsInference(model_name="demo", base_url=url, query_instruction="Instruct: Find it\nQuery:")
    # It puts a space after the instruction, which the model's template doesn't have.
    assert_same([model.get_query_embedding("what?")], expected(["Instruct: Find it\nQuery: what?"]))
