"""An app with API keys around a service in this process, and a clock for its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from serve_app.access.gate import Gate
from serve_app.access.key import ApiKey, hashed
from serve_app.access.keys import Keys
from serve_app.access.limiter import Limiter, ShareLimiter
from serve_app.api.app import App, Outcome, build_app
from serve_app.api.http import Reply, Request
from serve_app.api.routing import Access, Route
from serve_app.types import EmbedJob, EmbedResult
from tests.in_process import InProcess


class Charging(InProcess):
    """Does with a job's grant what the real service does; an input has 3 tokens."""

    async def embed(self, job: EmbedJob, request_id: str) -> EmbedResult:
        if job.grant is not None:
            job.grant.permit(job)
            await job.grant.charge(3 * len(job))
        return await super().embed(job, request_id)


async def _plain(request: Request) -> Reply:
    return Reply(200, b"plain", b"text/plain")


class Guarded:
    """`refused` collects what the gate refused, `outcomes` what metrics and logs get to see."""

    def __init__(
        self, *keys: ApiKey, limiter: Limiter | None = None, gateways: int = 1, metrics: Access = Access.ADMIN
    ) -> None:
        self.now = 1000.0
        self.service = Charging()
        self.refused: list[tuple[str, str]] = []
        self.outcomes: list[Outcome] = []
        self.keys = Keys(keys)
        self.gate = Gate(
            self.keys,
            limiter or ShareLimiter(gateways, lambda: self.now),
            gateways,
            lambda *refused: self.refused.append(refused),
        )
        extra = [Route("GET", "/metrics", _plain, "Metrics", {200: "text/plain"}, access=metrics)]
        self.app: App = build_app(self.service, extra, self.outcomes.append, self.gate)

    def client(self, secret: str | None = None) -> httpx.AsyncClient:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test", headers=headers)

    async def send(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = (), body: bytes = b"", **scope: Any
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Straight to the app, with whatever bytes in the headers."""
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "method": method, "path": path, "headers": [*headers], **scope}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def key(name: str, **allows: Any) -> ApiKey:
    """A key whose secret is `{name}-secret`."""
    return ApiKey(name, (hashed(f"{name}-secret"),), **allows)
