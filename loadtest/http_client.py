"""The smallest HTTP client that keeps its connection: prebuilt requests out, whole replies in."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

EMBEDDINGS = "/v1/embeddings"


class Reply(NamedTuple):
    """Status and body of one response."""

    status: int
    body: bytes


class Address(NamedTuple):
    """Where a service listens, and under what path."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Of a service's base URL, with or without `/v1`."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{url!r} isn't an http URL")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/").removesuffix("/v1"))

    def frame(self, body: bytes) -> bytes:
        """The whole request that posts `body` to the embeddings endpoint."""
        head = (
            f"POST {self.path}{EMBEDDINGS} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Connection:
    """A blocking keep-alive connection; one request at a time. Raises `TimeoutError` after `timeout` seconds of silence."""

    def __init__(self, address: Address, timeout: float = 60.0) -> None:
        self._socket = socket.create_connection((address.host, address.port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._chunks: list[bytes] = []
        self._complete = False
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes) -> None:
        """Send without waiting for the reply."""
        self._socket.sendall(request)

    def exchange(self, request: bytes) -> Reply:
        """Send and wait for the reply. Raises `ConnectionError` if the server closes first."""
        self._chunks, self._complete = [], False
        self._socket.sendall(request)
        while not self._complete:
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed the connection before its reply was complete")
            self._parser.feed_data(data)
        return Reply(self._parser.get_status_code(), b"".join(self._chunks))

    def close(self) -> None:
        """Close, whatever is under way."""
        self._socket.close()

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """The parser's."""
        self._complete = True

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
