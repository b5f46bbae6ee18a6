"""What operators and load balancers ask: health, readiness, version."""

from __future__ import annotations

from msgspec import Struct

from serve_app.api.errors import Error, error_fields, retry_headers
from serve_app.api.http import Reply, Request, json_reply
from serve_app.api.service import Service
from serve_app.errors import UnavailableError


class Status(Struct):
    """Reply of `GET /health` and `GET /ready` while all is well."""

    status: str


class Failing(Struct):
    """Reply of both while something is wrong: 503, with the error object that every failure carries."""

    status: str
    reason: str
    error: Error


class Version(Struct):
    """Reply of `GET /version`: the version of the package."""

    version: str


class Ops:
    """The three endpoints for one service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def health(self, request: Request) -> Reply:
        """`GET /health`: whether this process can do its work."""
        return _status("healthy", "unhealthy", await self.service.health())

    async def ready(self, request: Request) -> Reply:
        """`GET /ready`: whether a request sent now would be served."""
        return _status("ready", "not ready", await self.service.ready())

    async def version(self, request: Request) -> Reply:
        """`GET /version`."""
        return json_reply({"version": self.service.version})


def _status(good: str, bad: str, reason: str | None) -> Reply:
    if reason is None:
        return json_reply({"status": good})
    error = UnavailableError(f"The service is {bad}: {reason}")
    reply = json_reply({"status": bad, "reason": reason, "error": error_fields(error)}, error.status)
    reply.headers += retry_headers(error)
    reply.code = error.code
    return reply
