"""Schemathesis over our own OpenAPI document: what the document says is what is served.

It makes requests that the document allows and such that it doesn't, and holds each answer against the document: status, media type,
headers, the shape of the body, and that what is no request is refused. (`test_fuzz.py` sends what no schema could tell it.)
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core import NotSet
from schemathesis.generation import GenerationMode

from serve_app.access.gate import Gate
from serve_app.access.keys import Keys
from serve_app.access.limiter import ShareLimiter
from serve_app.api.app import build_app
from serve_app.types import Limits
from tests.guarded import key
from tests.in_process import MODEL, InProcess

EXAMPLES = {True: 30, False: 15}
SECRET = {"authorization": "Bearer a-secret"}
HELD = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


def keyed() -> Any:
    service = InProcess()
    service.limits = Limits(max_input_tokens=512)
    return build_app(service, guard=Gate(Keys([key("a")]), ShareLimiter(1)))


APP = keyed()


def asked(method: str, path: str, headers: dict[str, str], **request: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://test") as http:
            return await http.request(method, path, headers=headers, **request)

    return asyncio.run(ask())


DOCUMENT = asked("GET", "/openapi.json", SECRET).json()
OPERATIONS = {found.ok().label: found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()}


def test_it_knows_every_operation() -> None:
    documented = {f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert OPERATIONS.keys() == documented


def send(case: Any) -> httpx.Response:
    """As the case says, with a key."""
    headers = {**{name: str(value) for name, value in (case.headers or {}).items()}, **SECRET}
    if isinstance(case.body, NotSet):
        return asked(case.method, case.formatted_path, headers)
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    return asked(case.method, case.formatted_path, headers | {"content-type": "application/json"}, content=body)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("label", OPERATIONS)
def test_what_is_served_is_what_is_documented(label: str, allowed: bool) -> None:
    operation = OPERATIONS[label]
    if not allowed and operation.method.upper() == "GET":
        return  # nothing of it can be wrong
    statuses = set()
    mode = GenerationMode.POSITIVE if allowed else GenerationMode.NEGATIVE

    @settings(
        max_examples=EXAMPLES[allowed],
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def hold(case: Any) -> None:
        if allowed and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = MODEL  # others are 404, and say little
        reply = send(case)
        statuses.add(reply.status_code)
        case.validate_response(reply, checks=[CHECKS.get_one(name) for name in HELD])

    hold()
    assert (200 in statuses) is (allowed and "{model}" not in label), statuses
