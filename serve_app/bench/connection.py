"""HTTP/1.1 connections that send prebuilt requests and take replies as bytes; the parser is httptools (C)."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import httptools

from serve_app.bench.address import Address


class Answer(NamedTuple):
    """A whole reply; of the headers, named in lower case, only those that were asked for."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, keep: frozenset[bytes]) -> None:
        self.transport: Any = None  # uvloop's is no `asyncio.Transport`
        self._keep = keep
        self._answer: asyncio.Future[Answer] | None = None
        self._chunks: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._parser: Any = None

    @property
    def usable(self) -> bool:
        """Whether it can carry another request."""
        return not self.transport.is_closing()

    def exchange(self, request: bytes) -> asyncio.Future[Answer]:
        """The reply. Raises `ConnectionError` if the connection is lost first or what comes isn't HTTP."""
        self._parser = httptools.HttpResponseParser(self)
        self._chunks, self._headers = [], {}
        self._answer = asyncio.get_running_loop().create_future()
        if not self.usable:
            self._fail("connection lost before a request")
        else:
            self.transport.write(request)
        return self._answer

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():  # a reply nobody waits for
            self.transport.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("what came isn't HTTP")
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in self._keep:
            self._headers[name.lower().decode()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim reply; the real one follows
            self._chunks, self._headers = [], {}
            return
        if not self._parser.should_keep_alive():
            self.transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, self._headers, b"".join(self._chunks)))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("connection lost under a request")

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(why))


class Pool:
    """Connections to one address: an idle one if there is any, otherwise another, up to `most` at once."""

    def __init__(self, address: Address, most: int, keep: frozenset[bytes] = frozenset()) -> None:
        self._address = address
        self._keep = keep
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(most)

    async def take(self) -> Connection:
        """A connection for one request. Raises `OSError` if none can be made."""
        await self._free.acquire()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        address, loop = self._address, asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self._keep), address.host, address.port, ssl=address.context
            )
        except BaseException:
            self._free.release()
            raise
        return connection

    def give_back(self, connection: Connection, answered: bool) -> None:
        """What was taken. One whose reply didn't come is closed."""
        self._free.release()
        if not answered:
            connection.transport.close()
        elif connection.usable:
            self._idle.append(connection)

    async def exchange(self, request: bytes) -> Answer:
        """One request and its reply. Raises `OSError` if there's none."""
        connection = await self.take()
        answered = False
        try:
            answer = await connection.exchange(request)
            answered = True
        finally:
            self.give_back(connection, answered)
        return answer

    def close(self) -> None:
        """All idle connections."""
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()
