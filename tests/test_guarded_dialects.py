"""API keys in every dialect: its own words for the errors, and no route that forgets whose request it is."""

from __future__ import annotations

from typing import Any

import cohere
import httpx
import pytest

from serve_app.api.routing import OPS
from tests.guarded import Guarded, key
from tests.in_process import MODEL
from tests.test_app import BODY

COHERE = {"model": MODEL, "texts": ["hello"], "input_type": "search_document", "embedding_types": ["float"]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": BODY,
    "/v1/embed": COHERE,
    "/v2/embed": COHERE,
    "/embed": {"inputs": "hello"},
    "/": {"inputs": "hello"},
    "/embed_all": {"inputs": "hello"},
    "/similarity": {"inputs": {"source_sentence": "hello", "sentences": ["there"]}},
}
NO_VECTORS = {"/tokenize", "/decode"}
"""Nothing to charge for, but for the request."""


def vector_routes() -> list[str]:
    routes = Guarded().app.router.routes
    return [
        each.path for each in routes if each.method == "POST" and each.dialect != OPS and each.path not in NO_VECTORS
    ]


@pytest.mark.parametrize("path", vector_routes())
async def test_every_route_with_vectors_knows_the_key_charges_it_and_minds_its_models(path: str) -> None:
    guarded = Guarded(key("a", tokens_per_minute=100, bulk=True), key("b", models=frozenset({"other"})))
    async with guarded.client("a-secret") as http:
        reply = await http.post(path, json=BODIES[path])
    assert reply.status_code == 200, reply.text
    [(job, _)] = guarded.service.jobs
    assert (job.tenant, job.priority.name) == ("a", "BULK")
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) == 100 - 3 * len(job)
    [outcome] = guarded.outcomes
    assert (outcome.key, outcome.prompt_tokens) == ("a", 3 * len(job))
    async with guarded.client("b-secret") as http:
        assert (await http.post(path, json=BODIES[path])).status_code == 403
    async with guarded.client() as http:
        refused = await http.post(path, json=BODIES[path])
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert len(guarded.service.jobs) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/tokenize", {"inputs": "hello"}), ("POST", "/decode", {"ids": [1]}), ("GET", "/info", None)],
)
async def test_a_model_s_tokenizer_and_limits_are_for_those_who_may_use_it(method: str, path: str, body: Any) -> None:
    guarded = Guarded(key("a"), key("b", models=frozenset({"other"})))
    async with guarded.client("a-secret") as http:
        assert (await http.request(method, path, json=body)).status_code == 200
    async with guarded.client("b-secret") as http:
        refused = await http.request(method, path, json=body)
    message = f"Your API key may not use the model '{MODEL}'."
    assert (refused.status_code, refused.json()) == (403, {"error": message, "error_type": "Validation"})
    assert guarded.outcomes[-1].model == ""


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
async def test_cohere_s_words(path: str) -> None:
    guarded = Guarded(key("a", requests_per_minute=1), key("b", models=frozenset({"other"})))

    async def said(headers: dict[str, str]) -> tuple[int, str, httpx.Headers]:
        async with guarded.client() as http:
            reply = await http.post(path, json=COHERE, headers=headers)
        body = reply.json()
        assert reply.status_code == 200 or set(body) == {"message", "id"}
        return reply.status_code, body.get("message", ""), reply.headers

    assert (await said({}))[:2] == (401, "no api key supplied")
    assert (await said({"authorization": "Bearer"}))[:2] == (401, "no api key supplied")
    assert (await said({"authorization": "Bearer wrong"}))[:2] == (401, "invalid api token")
    assert (await said({"authorization": "Basic a-secret"}))[:2] == (401, "invalid api token")
    assert (await said({"authorization": "Bearer b-secret"}))[:2] == (
        403,
        f"Your API key may not use the model '{MODEL}'.",
    )
    assert (await said({"authorization": "Bearer a-secret"}))[0] == 200
    status, message, headers = await said({"authorization": "Bearer a-secret"})
    assert (status, headers["retry-after"]) == (429, "60")
    assert message.startswith("Rate limit reached for requests per min: Limit 1, Used 1, Requested 1.")


async def test_cohere_s_clients_raise_their_own_errors() -> None:
    guarded = Guarded(key("a", requests_per_minute=1))
    async with guarded.client() as http:
        for secret, kind in (
            ("wrong", cohere.UnauthorizedError),
            ("a-secret", None),
            ("a-secret", cohere.TooManyRequestsError),
        ):
            client = cohere.AsyncClientV2(secret, base_url="http://test", httpx_client=http)
            asked = client.embed(
                model=MODEL,
                texts=["hello"],
                input_type="search_document",
                embedding_types=["float"],
                request_options={"max_retries": 0},
            )
            if kind is None:
                assert len((await asked).embeddings.float_ or []) == 1
            else:
                with pytest.raises(kind):
                    await asked
