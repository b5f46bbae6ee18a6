"""Paths and methods to handlers. Routes are data, so that the document lists exactly what is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from serve_app.api.errors import ErrorReply, error_reply
from serve_app.api.http import Reply, Request
from serve_app.errors import MethodNotAllowedError, RequestError, RouteNotFoundError

Handler: TypeAlias = Callable[[Request], Awaitable[Reply]]
ErrorRenderer: TypeAlias = Callable[[RequestError, Request], Reply]

OPS = "ops"
"""The dialect of what operators ask, and of what no route is for."""


class Access(Enum):
    """Who may call a route where there are API keys: everybody, whoever has a key, or a key with `admin`."""

    PUBLIC = "public"
    KEY = "key"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    `path` is literal; one that ends in `{name}` takes all that follows, slashes included. `request` is the
    struct of the JSON body; `responses` maps a status to the struct of its JSON body (`| bytes` where that may be bytes instead),
    or to a media type for anything else. `headers` are those of the request that mean something here, each with its description and
    JSON schema. `dialect` is whose contract it keeps, for metrics; `errors` writes every error on the path in that
    contract's words, defects (500) and wrong methods (405) included, and `error` is the struct of its body. `access`
    is who may call it.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    responses: dict[int, Any] = field(default_factory=dict)
    request: Any = None
    headers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    dialect: str = OPS
    errors: ErrorRenderer = error_reply
    error: Any = ErrorReply
    access: Access = Access.KEY

    @property
    def prefix(self) -> str | None:
        """What a path with a parameter starts with; None for a literal path."""
        return self.path.partition("{")[0] if self.path.endswith("}") else None


class Router:
    """Finds the route of a request. Paths are matched as they are: no trailing slash is added or dropped."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = list(routes)
        self._exact = {(route.method, route.path): route for route in self.routes}

    def find(self, method: str, path: str) -> Route:
        """The route for `method` and `path`; HEAD finds the GET route.

        Raises `RouteNotFoundError` and `MethodNotAllowedError`.
        """
        route = self._exact.get((method, path))
        if route is not None:
            return route
        allowed = self.allowed(path)
        if not allowed:
            raise RouteNotFoundError(f"Unknown URL: {method} {path[:200]}.{self._suggestion(path)}")
        wanted = "GET" if method == "HEAD" else method
        if wanted not in allowed:
            raise MethodNotAllowedError(f"{path[:200]} takes {', '.join(allowed)}, not {method}.")
        return next(route for route in self._on(path) if route.method == wanted)

    def errors(self, path: str) -> ErrorRenderer:
        """Who writes an error on `path`, whatever the method: its first route, or OpenAI's words where there is none."""
        return next((route.errors for route in self._on(path)), error_reply)

    def public(self, path: str) -> bool:
        """Whether everybody may know what there is at this path."""
        routes = self._on(path)
        return bool(routes) and all(route.access is Access.PUBLIC for route in routes)

    def allowed(self, path: str) -> list[str]:
        """The methods of `path`, for `Allow`; empty if there is no such path."""
        methods = [route.method for route in self._on(path)]
        if "GET" in methods:
            methods.append("HEAD")
        return [*methods, "OPTIONS"] if methods else []

    def _on(self, path: str) -> list[Route]:
        exact = [route for route in self.routes if route.path == path]
        return exact or [
            route
            for route in self.routes
            if route.prefix is not None and path.startswith(route.prefix) and path != route.prefix
        ]

    def _suggestion(self, path: str) -> str:
        tidy = "/" + path.strip("/")
        # Base URLs end with /v1 for OpenAI's clients and without it for all others.
        for near in (tidy, "/v1" + tidy, tidy.removeprefix("/v1")):
            if any(route.path == near for route in self.routes):
                return f" Did you mean {near}?"
        return ""
