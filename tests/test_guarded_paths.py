"""What gets past the routes by odd paths, methods and upgrades on a real port: nothing, with keys or without."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.demo_service import listening
from tests.guarded import Guarded, key
from tests.in_process import MODEL

BODY = json.dumps({"model": MODEL, "input": "hello"}).encode()
HEADERS = b"Host: here\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n" % len(BODY)
KEY = b"Authorization: Bearer a-secret\r\n"
UPGRADE = (
    b"Host: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture(scope="module")
def guarded() -> Guarded:
    return Guarded(key("a"))


@pytest.fixture(scope="module")
def port(guarded: Guarded) -> Iterator[int]:
    with listening(guarded.app) as url:
        yield int(url.rpartition(":")[2])


def said(port: int, sent: bytes) -> bytes:
    """All that comes back."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(sent)
        heard = b""
        while more := connection.recv(1 << 16):
            heard += more
    return heard


def status(port: int, target: bytes, more: bytes = b"", method: bytes = b"POST") -> int:
    heard = said(port, b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (method, target, HEADERS, more, BODY))
    return int(heard.split(b" ", 2)[1])


# With a key: the same path, percent-decoded, or none.
TARGETS = {
    b"/v1/embeddings": 200,
    b"/v1/%65mbeddings": 200,
    b"/v1/embeddings?x=/health": 200,
    b"http://elsewhere/v1/embeddings": 200,
    b"//v1/embeddings": 404,
    b"/v1//embeddings": 404,
    b"/v1/embeddings/": 404,
    b"/v1/./embeddings": 404,
    b"/v1/%2e/embeddings": 404,
    b"/health/../v1/embeddings": 404,
    b"/health/%2e%2e/v1/embeddings": 404,
    b"/health%2f..%2fv1/embeddings": 404,
    b"/health;/v1/embeddings": 404,
    b"/health%00": 404,
    b"/health%3f/v1/embeddings": 404,
    b"/v1/embeddings%20": 404,
    b"/v1/embeddings%0d%0aX-Injected:%201": 404,
    b"/V1/EMBEDDINGS": 404,
}


@pytest.mark.parametrize(("target", "with_key"), TARGETS.items())
def test_a_path_is_what_it_is(port: int, guarded: Guarded, target: bytes, with_key: int) -> None:
    before = len(guarded.service.jobs)
    assert status(port, target) == 401
    assert status(port, target, b"X-Original-URL: /health\r\nX-Forwarded-For: 127.0.0.1\r\n") == 401
    assert len(guarded.service.jobs) == before
    assert status(port, target, KEY) == with_key
    assert len(guarded.service.jobs) == before + (with_key == 200)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"PATCH", b"DELETE", b"TRACE", b"PROPFIND"])
@pytest.mark.parametrize("target", [b"/v1/embeddings", b"/metrics", b"/docs", b"/nothing", b"*"])
def test_no_method_gets_past_the_guard(port: int, method: bytes, target: bytes) -> None:
    assert status(port, target, method=method) == 401


@pytest.mark.parametrize("target", [b"/health", b"/v1/embeddings", b"/nothing"])
@pytest.mark.parametrize("more", [b"", KEY])
def test_a_websocket_is_opened_by_nobody(port: int, target: bytes, more: bytes) -> None:
    # The server closes the connection, or reads on in HTTP: then what follows is answered, and closes it.
    last = b"GET /nothing HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    heard = said(port, b"GET %b HTTP/1.1\r\n%b%b\r\n%b" % (target, UPGRADE, more, last))
    assert b" 101 " not in heard.split(b"\r\n", 1)[0]
    assert b" 200 " not in heard.split(b"\r\n", 1)[0] or target == b"/health"


def test_an_upgrade_to_http_2_is_overlooked(port: int, guarded: Guarded) -> None:
    upgrade = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    assert status(port, b"/v1/embeddings", upgrade) == 401
    assert status(port, b"/v1/embeddings", upgrade + KEY) == 200


def test_other_origins_are_told_nothing(port: int) -> None:
    """No CORS: a page elsewhere can't read an answer, and gets no leave to send a key."""
    asked = b"Origin: http://elsewhere\r\nAccess-Control-Request-Method: POST\r\n"
    for more, method in ((asked, b"OPTIONS"), (asked + KEY, b"OPTIONS"), (asked + KEY, b"POST")):
        heard = said(port, b"%b /v1/embeddings HTTP/1.1\r\n%b%b\r\n%b" % (method, HEADERS, more, BODY))
        assert b"access-control-" not in heard.lower()
