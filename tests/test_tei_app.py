"""TEI's routes over HTTP: what they answer, in which words they refuse, and with which headers."""

# ruff: noqa: E501 - tables of messages, one case a line

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.api import embeddings, tei_routes
from serve_app.api.app import Outcome, build_app
from serve_app.errors import (
    CrashingInputError,
    DeadlineExceededError,
    EngineError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from serve_app.types import DEMO_MODEL_ID, EmbedJob, EmbedResult, Output, ServedModel, TokenVectors
from tests.demo_service import HIDDEN, STAGES, DemoService
from tests.reference import VOCABULARY, assert_same, expected, tokenizer

CONSTANT_500 = "The server had an error while processing your request. Quote the x-request-id header."
TEXTS = ["The capital of China is Beijing.", "重力是一种力。"]
PAIR = {"source_sentence": TEXTS[0], "sentences": [TEXTS[1], TEXTS[0]]}


class EveryToken(DemoService):
    """Whose tokens' vectors are their places: three tokens an input, but for the last, which has one."""

    async def embed_all(self, job: EmbedJob, request_id: str) -> TokenVectors:
        self.jobs.append(job)
        lengths = np.array([3] * (len(job) - 1) + [1], np.int32)
        vectors = np.arange(2 * lengths.sum(), dtype=np.float32).reshape(-1, 2)
        return TokenVectors(vectors, int(lengths.sum()), dict(STAGES), lengths=lengths)


@pytest.fixture
def service() -> EveryToken:
    return EveryToken(model=ServedModel(DEMO_MODEL_ID, HIDDEN, 512, "abc", 5, True, "float32", "cpu", 2048, 64))


@pytest.fixture
def outcomes() -> list[Outcome]:
    return []


@pytest.fixture
async def http(service: EveryToken, outcomes: list[Outcome]) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(service, observe=outcomes.append)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


# --- vectors


@pytest.mark.parametrize("path", ["/embed", "/"])
async def test_embed(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.post(path, json={"inputs": TEXTS})
    assert reply.status_code == 200
    assert_same(reply.json(), expected(TEXTS))


async def test_one_text_is_a_list_of_one_vector(http: httpx.AsyncClient) -> None:
    assert_same((await http.post("/embed", json={"inputs": TEXTS[0]})).json(), expected(TEXTS[:1]))


async def test_token_ids_prompts_and_dimensions(http: httpx.AsyncClient) -> None:
    ids = [row.tolist() for row in tokenizer().encode_batch(TEXTS)]
    assert_same((await http.post("/embed", json={"inputs": ids})).json(), expected(TEXTS))
    reply = await http.post("/embed", json={"inputs": TEXTS, "instruction": "Find it", "dimensions": 64})
    cut = expected(TEXTS, "Find it")[:, :64]
    assert_same(reply.json(), cut / np.linalg.norm(cut, axis=1, keepdims=True))


async def test_headers(http: httpx.AsyncClient) -> None:
    reply = await http.post("/embed", json={"inputs": TEXTS, "instruction": "Find it"})
    headers = reply.headers
    full = [f"Instruct: Find it\nQuery:{text}" for text in TEXTS]
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == str(sum(map(len, TEXTS)))
    assert headers["x-compute-tokens"] == str(sum(map(len, tokenizer().encode_batch(full))))
    assert [headers[f"x-{name}-time"] for name in ("tokenization", "queue", "inference")] == ["1", "2", "3"]
    assert headers["x-compute-time"] == headers["x-total-time"]
    assert headers["x-total-time"].isdigit()
    assert [headers[f"x-{stage}-ms"] for stage in STAGES] == ["1.000", "2.000", "3.000"]


async def test_token_ids_count_as_characters(http: httpx.AsyncClient) -> None:
    reply = await http.post("/embed", json={"inputs": [[1, 2], [3]]})
    assert (reply.headers["x-compute-characters"], reply.headers["x-compute-tokens"]) == ("3", "5")


async def test_similarity(http: httpx.AsyncClient) -> None:
    reply = await http.post("/similarity", json={"inputs": PAIR})
    source, other = expected(TEXTS)
    assert reply.json() == pytest.approx([float(source @ other), 1.0], abs=1e-5)
    assert max(reply.json()) <= 1
    assert reply.headers["x-compute-characters"] == str(2 * len(TEXTS[0]) + len(TEXTS[1]))


async def test_similarity_takes_prompts(http: httpx.AsyncClient, service: EveryToken) -> None:
    await http.post("/similarity", json={"inputs": PAIR, "parameters": {"prompt_name": "query", "truncate": True}})
    [job] = service.jobs
    assert (job.prompt or "").startswith("Instruct: ")
    assert job.truncate == "end"


async def test_embed_all(http: httpx.AsyncClient, service: EveryToken) -> None:
    reply = await http.post("/embed_all", json={"inputs": ["a", "b"]})
    assert reply.json() == [[[0, 1], [2, 3], [4, 5]], [[6, 7]]]
    assert service.jobs[0].output is Output.TOKENS
    assert reply.headers["x-compute-tokens"] == "4"


async def test_too_few_token_vectors_are_a_defect(http: httpx.AsyncClient, service: EveryToken) -> None:
    async def one(job: EmbedJob, request_id: str) -> TokenVectors:
        return TokenVectors(np.zeros((2, 2), np.float32), 2, lengths=np.array([2], np.int32))

    service.embed_all = one  # type: ignore[method-assign]
    app = build_app(service)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/embed_all", json={"inputs": ["a", "b"]})).status_code == 424


@pytest.mark.parametrize("path", ["/embed", "/similarity"])
async def test_a_vector_that_is_not_finite_is_never_sent(
    http: httpx.AsyncClient, service: EveryToken, path: str
) -> None:
    async def nan(job: EmbedJob, request_id: str) -> EmbedResult:
        return EmbedResult(np.full((len(job), 2), np.nan, np.float32), 1)

    service.embed = nan  # type: ignore[method-assign]
    reply = await http.post(path, json={"inputs": PAIR if path == "/similarity" else "a"})
    assert (reply.status_code, reply.json()) == (424, {"error": CONSTANT_500, "error_type": "Backend"})


async def test_large_requests_go_through_threads_with_the_same_result(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/embed", {"inputs": TEXTS}),
        ("/similarity", {"inputs": PAIR}),
        ("/embed_all", {"inputs": TEXTS}),
        ("/tokenize", {"inputs": TEXTS}),
        ("/decode", {"ids": [[1, 2], [3]]}),
    ]
    inline = [(await http.post(path, json=body)).content for path, body in requests]
    hops: list[str] = []

    async def to_thread(work: Any, *args: Any) -> Any:
        hops.append(work.__name__)
        return work(*args)

    monkeypatch.setattr(embeddings, "PARSE_INLINE_BYTES", 0)
    monkeypatch.setattr(embeddings, "RENDER_INLINE_VALUES", 0)
    monkeypatch.setattr(tei_routes, "RENDER_INLINE_TOKENS", 0)
    monkeypatch.setattr(embeddings.asyncio, "to_thread", to_thread)
    for (path, body), wanted in zip(requests, inline, strict=True):
        hops.clear()
        assert (await http.post(path, json=body)).content == wanted
        name = path[1:]
        render = [f"render_{name}"] if path != "/decode" else []
        assert [hop for hop in hops if hop.startswith(("parse", "render"))] == [f"parse_{name}", *render]


async def test_requests_are_counted_as_theirs(http: httpx.AsyncClient, outcomes: list[Outcome]) -> None:
    await http.post("/embed", json={"inputs": TEXTS})
    await http.post("/tokenize", json={"inputs": TEXTS})
    await http.post("/similarity", json={"inputs": PAIR})
    await http.get("/info")
    tokens = sum(map(len, tokenizer().encode_batch(TEXTS)))
    seen = [(found.dialect, found.path, found.model, found.status, found.inputs) for found in outcomes]
    assert seen == [
        ("tei", "/embed", DEMO_MODEL_ID, 200, 2),
        ("tei", "/tokenize", DEMO_MODEL_ID, 200, 0),
        ("tei", "/similarity", DEMO_MODEL_ID, 200, 3),
        ("ops", "/info", "", 200, 0),
    ]
    assert [found.prompt_tokens for found in outcomes[:2]] == [tokens, 0]


# --- tokens


async def test_tokenize_places_are_characters(http: httpx.AsyncClient) -> None:
    text = "héllo 重力 👍🏽 a<|endoftext|>b"
    reply = await http.post("/tokenize", json={"inputs": text})
    [tokens] = reply.json()
    assert [token["id"] for token in tokens] == tokenizer().encode(text).tolist()
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens[:-1])
    assert [token["start"] for token in tokens[:-1]] == sorted(token["start"] for token in tokens[:-1])
    # Typed out it has a place; what the tokenizer adds has none.
    assert tokens[-3] == {"id": tokens[-1]["id"], "text": "<|endoftext|>", "special": False, "start": 13, "stop": 26}
    assert tokens[-1] == {"id": tokens[-1]["id"], "text": "<|endoftext|>", "special": True, "start": None, "stop": None}


async def test_tokenize_without_the_closing_token_and_with_a_prompt(http: httpx.AsyncClient) -> None:
    body = {"inputs": ["what?", "why?"], "add_special_tokens": False, "instruction": "Find it"}
    prompt = "Instruct: Find it\nQuery:"
    for tokens, text in zip((await http.post("/tokenize", json=body)).json(), ("what?", "why?"), strict=True):
        assert [token["id"] for token in tokens] == tokenizer().encode(prompt + text)[:-1].tolist()
        assert not any(token["special"] for token in tokens)
        assert tokens[-1]["stop"] == len(prompt + text)


async def test_an_input_over_the_limit_can_be_tokenized(http: httpx.AsyncClient) -> None:
    [tokens] = (await http.post("/tokenize", json={"inputs": "word " * 600})).json()
    assert len(tokens) == len(tokenizer().encode("word " * 600)) > 512


async def test_decode_gives_back_what_was_tokenized(http: httpx.AsyncClient) -> None:
    ids = [row.tolist() for row in tokenizer().encode_batch(TEXTS)]
    assert (await http.post("/decode", json={"ids": ids})).json() == TEXTS
    assert (await http.post("/decode", json={"ids": ids[0]})).json() == TEXTS[:1]
    with_special = await http.post("/decode", json={"ids": ids, "skip_special_tokens": False})
    assert with_special.json() == [text + "<|endoftext|>" for text in TEXTS]


# --- the model


async def test_info(http: httpx.AsyncClient) -> None:
    assert (await http.get("/info")).json() == {
        "model_id": DEMO_MODEL_ID,
        "model_sha": "abc",
        "model_dtype": "float32",
        "served_model_name": DEMO_MODEL_ID,
        "model_type": {"embedding": {"pooling": "last_token"}},
        "max_input_length": 512,
        "max_batch_tokens": 2048,
        "max_batch_requests": 64,
        "max_client_batch_size": 32,
        "auto_truncate": False,
        "version": "1.2.3",
        "sha": None,
        "docker_label": None,
    }


async def test_without_a_model_there_is_nothing_to_tell() -> None:
    service = DemoService()
    service.models = ()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://t") as client:
        for reply in (await client.get("/info"), await client.post("/embed", json={"inputs": "a"})):
            assert (reply.status_code, reply.json()) == (
                404,
                {"error": "No model is served here.", "error_type": "Validation"},
            )


# --- errors


@pytest.mark.parametrize(
    ("path", "body", "status", "error", "error_type"),
    [
        ("/embed", {"inputs": ""}, 422, "'$.inputs' is invalid: the string is empty. Leave it out or send at least one character.", "Validation"),
        ("/embed", {"inputs": []}, 400, "'$.inputs' is invalid: the list is empty. Send at least one item.", "Empty"),
        ("/embed", {}, 422, "You must provide 'inputs'.", "Validation"),
        ("/", {"inputs": ["a"] * 33}, 422, "'inputs' has more than 32 items. Split them over several requests.", "Validation"),
        ("/embed", {"inputs": "word " * 600}, 422, "Input validation error: `inputs` must have less than 512 tokens. Given: 602. Send 'truncate': true to have it cut.", "Validation"),
        ("/embed", {"inputs": ["a", "word " * 600]}, 422, "Input validation error: `inputs` must have less than 512 tokens. Given: 602 (input index 1). Send 'truncate': true to have it cut.", "Validation"),
        ("/embed", {"inputs": [1, 99_999]}, 422, f"Input 0 has token id 99999, but this model's ids end at {VOCABULARY - 1}. Token ids must come from this model's own tokenizer; send the text itself if yours come from another.", "Validation"),
        ("/embed", {"inputs": ["word " * 300] * 20}, 422, "Requested 6040 tokens, max 4096 tokens per request", "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "'$.inputs.sentences' is invalid: the list is empty. Send at least one item.", "Empty"),
        ("/tokenize", {"inputs": [1]}, 422, "'$.inputs[0]' is invalid: expected a string, got an integer. Send a string or a list of strings.", "Validation"),
        ("/tokenize", {"inputs": {"a": 1}}, 422, "'$.inputs' is invalid: got an object. Send a string or a list of strings.", "Validation"),
        ("/tokenize", {"inputs": ["word " * 2000] * 3}, 422, "The texts have more than 4096 tokens. Send fewer or shorter texts.", "Validation"),
        ("/tokenize", {"inputs": "word " * 10_000}, 422, "The texts have more than 32768 characters. Send fewer or shorter texts.", "Validation"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": 1}, 422, "'add_special_tokens' must be true or false.", "Validation"),
        ("/tokenize", {"inputs": "a", "truncate": True}, 422, "The field 'truncate' is not supported. Remove it.", "Validation"),
        ("/decode", {"ids": "a"}, 422, "'ids' must be a list of token ids, or a list of such lists.", "Validation"),
        ("/decode", {"ids": [[1], []]}, 400, "'$.ids[1]' is invalid: the list is empty. Send at least one item.", "Empty"),
        ("/decode", {"ids": [[1], [99_999]]}, 422, f"List 1 has token id 99999, but this model's ids end at {VOCABULARY - 1}.", "Validation"),
        ("/tokenize", {"prompt": "a"}, 422, "The field 'prompt' is not supported. Send the text in 'inputs'.", "Validation"),
        ("/decode", {"ids": [True]}, 422, "'$.ids[0]' is invalid: got a boolean. Send a list of token ids, or a list of such lists.", "Validation"),
        ("/decode", {"ids": [[1], "a"]}, 422, "'$.ids[1]' is invalid: expected a list, got a string. Send a list of token ids, or a list of such lists.", "Validation"),
        ("/decode", {"tokens": [1]}, 422, "The field 'tokens' is not supported. Send token ids in 'ids'.", "Validation"),
        ("/decode", {"inputs": [1]}, 422, "The field 'inputs' is not supported. Send token ids in 'ids'.", "Validation"),
        ("/decode", {"ids": [1], "skip_special_tokens": "no"}, 422, "'skip_special_tokens' must be true or false.", "Validation"),
    ],
)  # fmt: skip
async def test_what_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, error: str, error_type: str
) -> None:
    reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()) == (status, {"error": error, "error_type": error_type})
    assert "x-should-retry" not in reply.headers


@pytest.mark.parametrize(
    ("trouble", "status", "error_type", "retry"),
    [
        (OverloadedError("Too much.", 2.5), 429, "Overloaded", {"retry-after": "3", "retry-after-ms": "2500", "x-should-retry": "true"}),
        (DeadlineExceededError("Too late."), 408, "Overloaded", {"retry-after": "1", "x-should-retry": "true"}),
        (UnavailableError("Not now."), 503, "Unhealthy", {"retry-after": "1", "x-should-retry": "true"}),
        (CrashingInputError(0), 422, "Validation", {}),
    ],
)  # fmt: skip
async def test_what_can_happen_to_a_good_request(
    http: httpx.AsyncClient,
    service: EveryToken,
    trouble: RequestError,
    status: int,
    error_type: str,
    retry: dict[str, str],
) -> None:
    service.trouble = trouble
    reply = await http.post("/embed", json={"inputs": "a"})
    assert (reply.status_code, reply.json()) == (status, {"error": trouble.message, "error_type": error_type})
    names = ("retry-after", "retry-after-ms", "x-should-retry")
    assert {name: reply.headers[name] for name in names if name in reply.headers} == retry


@pytest.mark.parametrize("path", ["/embed", "/", "/similarity", "/tokenize"])
async def test_a_defect_tells_nothing_of_itself(http: httpx.AsyncClient, service: EveryToken, path: str) -> None:
    service.trouble = EngineError("secret")
    reply = await http.post(path, json={"inputs": PAIR if path == "/similarity" else "a"})
    assert (reply.status_code, reply.json()) == (424, {"error": CONSTANT_500, "error_type": "Backend"})
    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/embed", "/", "/similarity", "/tokenize", "/decode", "/embed_all"])
async def test_other_failures_are_in_these_words_too(http: httpx.AsyncClient, path: str) -> None:
    wrong = await http.get(path)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
    assert wrong.json() == {"error": f"{path} takes POST, OPTIONS, not GET.", "error_type": "Validation"}
    xml = await http.post(path, content=b"<a/>", headers={"content-type": "text/xml"})
    assert (xml.status_code, xml.json()["error_type"]) == (415, "Validation")
    large = await http.post(path, content=b" " * (8 * 1024 * 1024 + 1))
    assert (large.status_code, large.json()["error_type"]) == (413, "Validation")
    broken = await http.post(path, content=b"{")
    message = "We could not parse the JSON body of your request: it is not valid JSON."
    assert (broken.status_code, broken.json()) == (422, {"error": message, "error_type": "Validation"})


async def test_a_refusal_never_quotes_a_text(http: httpx.AsyncClient) -> None:
    for path, body in [
        ("/embed", {"inputs": ["ok", {"secret": 1}]}),
        ("/embed", {"inputs": "a", "prompt_name": "secret"}),
        ("/embed", {"inputs": "a", "truncation_direction": "secret"}),
        ("/similarity", {"inputs": {"source_sentence": "secret", "sentences": ["secret", 1]}}),
        ("/tokenize", {"inputs": ["secret", 1]}),
        ("/decode", {"ids": ["secret"]}),
    ]:
        reply = await http.post(path, content=json.dumps(body))
        assert reply.status_code == 422
        assert "secret" not in reply.text
