"""A short, seeded part of `make fuzz`, in this process: whatever is sent, in each dialect, with keys and without, is answered or
refused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from loadtest.fuzz_inputs import BadInput, Generator
from loadtest.fuzz_judge import complaint
from serve_app.access.gate import Gate
from serve_app.access.keys import Keys
from serve_app.access.limiter import ShareLimiter
from serve_app.api.app import App, build_app
from serve_app.cluster.tokenize import JobTokenizer
from serve_app.types import DEMO_MODEL_ID, EmbedJob, EmbedResult, Stage
from tests.demo_service import HIDDEN, DemoService
from tests.guarded import key
from tests.reference import VOCABULARY, tokenizer

INPUTS = 3000


class Ones(DemoService):
    """Tokenizes and charges for real, and answers with ones."""

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        if job.grant is not None:
            job.grant.permit(job)
        inputs = await JobTokenizer(tokenizer(), self.limits, VOCABULARY).tokenize(job)
        tokens = sum(map(len, inputs))
        if job.grant is not None:
            await job.grant.charge(tokens)
        return EmbedResult(np.ones((len(job), job.dimensions or HIDDEN), np.float32), tokens, dict.fromkeys(Stage, 0.1))


async def answer(app: App, sent: BadInput, **scope: Any) -> tuple[int, bytes]:
    said: list[Any] = []
    given: list[bool] = []

    async def receive() -> dict[str, Any]:
        if given:
            await asyncio.Event().wait()  # the client stays
        given.append(True)
        return {"type": "http.request", "body": sent.body}

    async def send(message: Any) -> None:
        said.append(message)

    headers = [(name.encode(), value) for name, value in sent.headers]
    await app({"type": "http", "method": "POST", "path": sent.path, "headers": headers, **scope}, receive, send)
    return said[0]["status"], said[1]["body"]


async def document(app: App, *headers: tuple[str, bytes]) -> dict[str, Any]:
    status, body = await answer(app, BadInput("/openapi.json", headers, b"", True), method="GET")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("keyed", [False, True])
async def test_whatever_is_sent_is_answered_or_refused(keyed: bool) -> None:
    guard = Gate(Keys([key("a"), key("b")]), ShareLimiter(1)) if keyed else None
    app = build_app(Ones(), guard=guard)
    secret = (("authorization", b"Bearer a-secret"),) if keyed else ()
    statuses: Counter[int] = Counter()
    paths: Counter[str] = Counter()
    for sent in islice(Generator(await document(app, *secret), DEMO_MODEL_ID, seed=7 + keyed), INPUTS):
        status, body = await answer(app, sent.with_key(b"a-secret") if keyed else sent)
        assert complaint(sent, status, body) is None, (complaint(sent, status, body), sent, body[:1000])
        statuses[status] += 1
        paths[sent.path] += status != 200
    # It reaches every route and most refusals, and only few of its inputs are good.
    assert {"/v1/embeddings", "/v1/embed", "/v2/embed", "/embed", "/", "/similarity", "/tokenize", "/decode"} <= set(
        paths
    )
    assert {400, 415, 422} <= set(statuses)
    assert (401 in statuses) == keyed
    assert sum(paths.values()) > INPUTS / 2
