"""What a refusal becomes in the frameworks' hands: LangChain and LlamaIndex, on a real port, in each dialect that they speak."""

# ruff: noqa: E501 - messages, one a line

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cohere
import openai
import pytest
from cohere.core.api_error import ApiError
from langchain_cohere import CohereEmbeddings
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from serve_app.access.gate import Gate
from serve_app.access.keys import Keys
from serve_app.access.limiter import ShareLimiter
from serve_app.api.app import build_app
from serve_app.types import DEMO_MODEL_ID
from tests.demo_service import DemoService, listening
from tests.guarded import key

LONG = "word " * 600
TOO_LONG = "Input length 602 exceeds maximum allowed length 512"
BAD, BAD_KEY = "invalid_request_error", "Incorrect API key provided. Ask whoever runs this service for one."
SLOW = "Rate limit reached for requests per min: Limit 1, Used 1, Requested 1. Please try again in "


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    keys = Keys([key("a"), key("slow", requests_per_minute=1), key("slower", requests_per_minute=1)])
    with listening(build_app(DemoService(), guard=Gate(keys, ShareLimiter(1)))) as url:
        yield url


REFUSALS: list[tuple[str, str, str, type[openai.APIStatusError], dict[str, Any]]] = [
    (
        "a",
        DEMO_MODEL_ID,
        LONG,
        openai.BadRequestError,
        {"message": TOO_LONG, "type": BAD, "param": "input", "code": None},
    ),
    (
        "a",
        "gpt-4",
        "a",
        openai.NotFoundError,
        {
            "message": f"The model 'gpt-4' is not served here. Served: '{DEMO_MODEL_ID}'.",
            "type": BAD,
            "param": "model",
            "code": "model_not_found",
        },
    ),
    (
        "wrong",
        DEMO_MODEL_ID,
        "a",
        openai.AuthenticationError,
        {"message": BAD_KEY, "type": BAD, "param": None, "code": "invalid_api_key"},
    ),
]


@pytest.mark.parametrize(("name", "model", "text", "kind", "body"), REFUSALS)
@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_over_openai_s_route_it_is_openai_s_error(
    url: str, framework: str, name: str, model: str, text: str, kind: type[openai.APIStatusError], body: dict[str, Any]
) -> None:
    secret = f"{name}-secret"
    with pytest.raises(kind) as caught:
        if framework == "langchain":
            OpenAIEmbeddings(
                model=model, base_url=f"{url}/v1", api_key=secret, check_embedding_ctx_length=False, max_retries=0
            ).embed_query(text)
        else:
            OpenAILikeEmbedding(
                model_name=model, api_base=f"{url}/v1", api_key=secret, max_retries=0
            ).get_text_embedding(text)
    assert caught.value.body == body


@pytest.mark.parametrize(
    ("name", "model", "text", "kind", "status", "message"),
    [
        ("wrong", DEMO_MODEL_ID, "a", cohere.UnauthorizedError, 401, "invalid api token"),
        ("a", DEMO_MODEL_ID, "", cohere.BadRequestError, 400, "invalid request: inputs contains an element that is the empty string at index 0"),
        (
            "a",
            "embed-english-v3.0",
            "a",
            cohere.NotFoundError,
            404,
            "model 'embed-english-v3.0' not found, make sure the correct model ID was used and that you have access to the model. "
            f"Served here: '{DEMO_MODEL_ID}'; the setting model_aliases gives it other names.",
        ),
    ],
)  # fmt: skip
def test_over_cohere_s_route_it_is_cohere_s_error(
    url: str, name: str, model: str, text: str, kind: type[ApiError], status: int, message: str
) -> None:
    embeddings = CohereEmbeddings(model=model, cohere_api_key=f"{name}-secret", base_url=url, max_retries=0)
    with pytest.raises(kind) as caught:
        embeddings.embed_documents([text])
    assert caught.value.status_code == status
    assert caught.value.body["message"] == message


def test_llama_index_s_client_for_tei_overlooks_the_status(url: str) -> None:
    """It takes the error's body for vectors: whatever is refused ends in this."""
    with pytest.raises(KeyError):
        TextEmbeddingsInference(model_name="demo", base_url=url, auth_token="wrong-secret").get_query_embedding("a")
    model = TextEmbeddingsInference(model_name="demo", base_url=url, auth_token="a-secret")
    assert len(model.get_query_embedding("a")) == 128


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (
            "slow",
            lambda url: (
                OpenAIEmbeddings(
                    model=DEMO_MODEL_ID,
                    base_url=f"{url}/v1",
                    api_key="slow-secret",
                    check_embedding_ctx_length=False,
                    max_retries=0,
                ).embed_query
            ),
        ),
        (
            "slower",
            lambda url: (
                OpenAILikeEmbedding(
                    model_name=DEMO_MODEL_ID, api_base=f"{url}/v1", api_key="slower-secret", max_retries=0
                ).get_text_embedding
            ),
        ),
    ],
)
def test_a_rate_limit_is_openai_s_too(url: str, name: str, make: Callable[[str], Callable[[str], list[float]]]) -> None:
    embed = make(url)
    assert len(embed("a")) == 128
    with pytest.raises(openai.RateLimitError, match=SLOW) as caught:
        embed("a")
    assert (caught.value.type, caught.value.param, caught.value.code) == ("requests", None, "rate_limit_exceeded")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
