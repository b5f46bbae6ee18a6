"""What a key may do, once it is let in: its models, its priority, and what is for admins."""

from __future__ import annotations

import json

import pytest

from serve_app.api.routing import Access
from serve_app.types import Priority
from tests.guarded import Guarded, key
from tests.in_process import MODEL
from tests.test_app import BODY
from tests.test_guard import GOOD, POST


async def test_metrics_are_for_admins_or_for_all() -> None:
    guarded = Guarded(key("a"), key("boss", admin=True))
    status, _, body = await guarded.send("GET", "/metrics", [GOOD])
    assert status == 403
    assert json.loads(body)["error"] == {
        "message": "This needs an API key with 'admin'.",
        "type": "invalid_request_error",
        "param": None,
        "code": "insufficient_permissions",
    }
    assert (await guarded.send("GET", "/metrics", [(b"authorization", b"Bearer boss-secret")]))[0] == 200
    public = Guarded(key("a"), metrics=Access.PUBLIC)
    assert (await public.send("GET", "/metrics"))[0] == 200


async def test_a_model_that_a_key_may_not_use() -> None:
    guarded = Guarded(key("a", models=frozenset({"other"})), key("b", models=frozenset({MODEL.lower()})))
    status, _, body = await guarded.send("POST", "/v1/embeddings", [GOOD], POST)
    assert status == 403
    assert json.loads(body)["error"] == {
        "message": f"Your API key may not use the model '{MODEL}'.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert guarded.service.jobs == []
    for secret, count in (("a", 0), ("b", 1)):
        async with guarded.client(f"{secret}-secret") as http:
            assert len((await http.get("/v1/models")).json()["data"]) == count


@pytest.mark.parametrize("asked", ["interactive", "bulk", None])
async def test_a_bulk_key_is_never_interactive(asked: str | None) -> None:
    guarded = Guarded(key("a", bulk=True), key("b"))
    for name in ("a", "b"):
        async with guarded.client(f"{name}-secret") as http:
            await http.post("/v1/embeddings", json={**BODY, "priority": asked})
    bulk, other = (job.priority for job, _ in guarded.service.jobs)
    assert bulk is Priority.BULK
    assert other is (Priority.BULK if asked == "bulk" else Priority.INTERACTIVE)
