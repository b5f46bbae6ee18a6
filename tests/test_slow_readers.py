"""Clients that ask for a large answer and don't read it: they hold no more than their key may, and not for ever."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve_app.api import app as app_module
from serve_app.api import http as http_module
from serve_app.api.app import App
from serve_app.api.http import PIECE_BYTES, Reply, Request
from serve_app.api.routing import Route
from tests.demo_service import listening
from tests.guarded import Guarded, key

# More than the buffers of both ends hold.
LARGE = bytes(range(256)) * 4096 * 32


async def _large(request: Request) -> Reply:
    return Reply(200, LARGE, b"application/octet-stream")


def guarded() -> Guarded:
    found = Guarded(key("a", max_concurrent=1))
    found.app = App(
        [*found.app.router.routes, Route("GET", "/large", _large, "Much")], found.outcomes.append, found.gate
    )
    return found


@pytest.mark.parametrize("length", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 1, 3 * PIECE_BYTES])
async def test_a_large_answer_is_sent_in_pieces_and_whole(length: int) -> None:
    body = (LARGE * 2)[:length]
    sent: list[Any] = []

    async def handler(request: Request) -> Reply:
        return Reply(200, body)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    await App([Route("GET", "/", handler, "")])(
        {"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send
    )
    start, *pieces = sent
    assert dict(start["headers"])[b"content-length"] == b"%d" % length
    assert b"".join(piece["body"] for piece in pieces) == body
    assert max(len(piece["body"]) for piece in pieces) <= PIECE_BYTES
    assert [piece.get("more_body", False) for piece in pieces] == [True] * (len(pieces) - 1) + [False]


async def test_an_answer_that_nobody_reads_is_under_way_until_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (http_module, app_module):
        monkeypatch.setattr(module, "SEND_SECONDS", 0.05)
    found = guarded()
    sent: list[Any] = []
    begun = asyncio.Event()

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 2:
            begun.set()
            await asyncio.Event().wait()  # a client whose buffers are full

    scope = {"type": "http", "method": "GET", "path": "/large", "headers": [(b"authorization", b"Bearer a-secret")]}
    caplog.set_level(logging.WARNING)
    task = asyncio.create_task(found.app(scope, receive, send))
    await begun.wait()
    status, _, said = await found.send("GET", "/v1/models", [(b"authorization", b"Bearer a-secret")])
    assert (status, json.loads(said)["error"]) == (
        429,
        {
            "message": "Your API key has 1 requests under way, and may have 1 here. Wait for one of them.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        },
    )
    await task
    assert len(sent) == 2
    assert "its answer wasn't read within 0.05 s" in caplog.text
    assert (await found.send("GET", "/v1/models", [(b"authorization", b"Bearer a-secret")]))[0] == 200


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(guarded().app) as url:
        yield url


def test_over_a_socket_the_next_request_has_to_wait_for_the_reader(url: str) -> None:
    def another() -> int:
        return httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer a-secret"}).status_code

    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        slow.settimeout(30)
        slow.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer a-secret\r\n\r\n")
        heard = [slow.recv(1000)]
        assert another() == 429
        while more := slow.recv(1 << 20):
            heard.append(more)
    assert b"".join(heard).endswith(b"\r\n\r\n" + LARGE)
    deadline = time.monotonic() + 30
    while another() != 200:
        assert time.monotonic() < deadline
