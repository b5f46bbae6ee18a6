"""What no HTTP client sends, straight into the running service's port: it is refused or answered, and the service goes on."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.running import RunningService

pytestmark = pytest.mark.cluster

BODY = json.dumps({"model": "demo", "input": "hello", "encoding_format": "base64"}).encode()
POST = b"POST /v1/embeddings HTTP/1.1\r\n"
HOST = b"Host: here\r\n"
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"


def connect(service: RunningService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), 30)


def replies(service: RunningService, sent: bytes) -> list[int]:
    """The statuses of all replies until the service closes the connection. Raises `TimeoutError` if it doesn't."""
    with connect(service) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may close as soon as it has seen enough
            connection.sendall(sent)
        heard = b""
        while True:
            try:
                more = connection.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                break
            heard += more
    starts = heard.split(b"HTTP/1.1 ")[1:]
    return [int(start[:3]) for start in starts]


def alive(service: RunningService) -> bool:
    body = {"model": "demo", "input": "still there"}
    return httpx.post(f"{service.base_url}/embeddings", json=body, timeout=30).status_code == 200


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


LARGE = json.dumps({"model": "demo", "input": ["word " * 200] * 20, "encoding_format": "base64"}).encode()


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (POST + HOST + JSON + CLOSE + LENGTH + b"\r\n" + BODY, [200]),
        (POST + HOST + JSON + CLOSE + CHUNKED + b"\r\n" + chunks(LARGE, 1), [200]),
        (POST + HOST + JSON + CLOSE + b"Content-Length: %s\r\n\r\n{" % (b"9" * 40), [400]),
        (POST + HOST + JSON + CLOSE + b"Content-Length: -1\r\n\r\n", [400]),
        (POST + HOST + JSON + CLOSE + LENGTH + b"Content-Length: 1\r\n\r\n" + BODY, [400]),
        (POST + HOST + JSON + CLOSE + CHUNKED + b"\r\nzz\r\n", [400]),
        (POST + HOST + JSON + CLOSE + b"Transfer-Encoding: chunked, identity\r\n\r\n" + BODY, [400]),
        (POST + HOST + b"X-Odd: a\x00b\r\n\r\n", [400]),
        (POST + HOST + b"X Odd: a\r\n\r\n", [400]),
        (POST + b"Host: a\r\nHost: b\r\n" + JSON + CLOSE + LENGTH + b"\r\n" + BODY, [400]),
        (POST + HOST + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n", [400]),
        (POST + HOST + b"X-Giant: " + b"a" * 2**20 + b"\r\n\r\n", [400]),
        (b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n" + HOST + b"\r\n", [400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, [400]),
        (b"GARBAGE\r\n\r\n", [400]),
    ],
    ids=lambda value: value[:60] + b"..." + value[-20:] if isinstance(value, bytes) else None,
)
def test_it_is_answered_or_refused_and_the_service_goes_on(
    service: RunningService, sent: bytes, statuses: list[int]
) -> None:
    assert replies(service, sent) == statuses
    assert alive(service)


def test_a_hundred_megabytes_are_refused_before_they_are_sent(service: RunningService) -> None:
    """HAProxy passes a body on as soon as its buffer is full; the gateway refuses it by its length."""
    with connect(service) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(POST + HOST + JSON + b"Content-Length: 100000000\r\n\r\n" + b" " * 500_000)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
    assert alive(service)


@pytest.mark.parametrize("host", [b"", b"Host:\r\n", b"Host: here/health\r\n", b"Host: x?/health#\r\n", b"Host: @\r\n"])
def test_odd_hosts(service: RunningService, host: bytes) -> None:
    [status] = replies(service, POST + host + JSON + CLOSE + LENGTH + b"\r\n" + BODY)
    assert status in (200, 400)
    assert alive(service)


def test_a_length_beside_chunks_smuggles_nothing(service: RunningService) -> None:
    """Whoever goes by the length takes the rest for a second request; who goes by the chunks has read all of it."""
    hidden = b"GET /smuggled HTTP/1.1\r\nHost: here\r\n\r\n"
    body = chunks(BODY + b" " + hidden, 10**6)
    found = replies(service, POST + HOST + JSON + CLOSE + LENGTH + CHUNKED + b"\r\n" + body)
    assert found == [400]
    assert alive(service)


def test_a_websocket_is_refused(service: RunningService) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with connect(service) as connection:
        connection.sendall(b"GET /v1/embeddings HTTP/1.1\r\n" + HOST + upgrade)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 403 ")
    assert alive(service)


def test_requests_in_a_row_are_answered_in_a_row(service: RunningService) -> None:
    one = POST + HOST + JSON + LENGTH + b"\r\n" + BODY
    bad = b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"
    last = POST + HOST + JSON + CLOSE + LENGTH + b"\r\n" + BODY
    assert replies(service, one + bad + one + last) == [200, 404, 200, 200]


def test_slow_clients_keep_nobody_out(service: RunningService) -> None:
    before = {process.pid for kind in ("Embedder", "Gateway") for process in service.replicas(kind)}
    with ExitStack() as open_ones:
        for number in range(200):
            slow = open_ones.enter_context(connect(service))
            # Half of them stop within the head, half within the body.
            slow.sendall(POST + HOST + (b"X-Slow: " if number % 2 else JSON + b"Content-Length: 1000\r\n\r\n{"))
        assert alive(service)
        assert httpx.get(f"{service.url}/health", timeout=30).status_code == 200
    assert alive(service)
    assert before == {process.pid for kind in ("Embedder", "Gateway") for process in service.replicas(kind)}
