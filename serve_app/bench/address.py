"""Where an HTTP service listens, and requests to it as bytes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

EMBEDDINGS = "/v1/embeddings"


class Address(NamedTuple):
    """Host, port, the path before `/v1`, and whether TLS is spoken."""

    host: str
    port: int
    path: str
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """Of a base URL, with or without `/v1` (Cohere: `/v2`). Raises `ValueError` for what isn't an HTTP URL, and for one with a
        password or a query: such things hold secrets, and URLs are printed."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} isn't an http URL")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"the URL of {parts.hostname} has more than a host, a port and a path")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1").removesuffix("/v2")
        return cls(parts.hostname, parts.port or (443 if tls else 80), path, tls)

    def frame(self, body: bytes, path: str = EMBEDDINGS, headers: Mapping[str, str] | None = None) -> bytes:
        """The whole request that posts `body` to `path`."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"POST {self.path}{path} HTTP/1.1\r\nhost: {self.authority}\r\n{more}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def frame_get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes:
        """The whole request that asks for `path`."""
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        return f"GET {self.path}{path} HTTP/1.1\r\nhost: {self.authority}\r\n{more}\r\n".encode()

    @property
    def authority(self) -> str:
        """The `Host` header: an IPv6 address in brackets, the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def context(self) -> ssl.SSLContext | None:
        """How TLS is spoken, certificates checked; None without it."""
        return _context() if self.tls else None


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()
