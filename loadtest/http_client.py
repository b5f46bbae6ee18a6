"""The smallest HTTP client that keeps its connection: prebuilt requests out, whole replies in."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import NamedTuple

import httptools

from serve_app.bench.address import EMBEDDINGS, Address

__all__ = ["EMBEDDINGS", "Address", "Connection", "Reply"]


class Reply(NamedTuple):
    """Status and body of one response."""

    status: int
    body: bytes


class Connection:
    """A blocking keep-alive connection; one request at a time. Raises `TimeoutError` after `timeout` seconds of silence."""

    def __init__(self, address: Address, timeout: float = 60.0) -> None:
        plain = socket.create_connection((address.host, address.port), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = address.context
        self._socket = context.wrap_socket(plain, server_hostname=address.host) if context else plain
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
