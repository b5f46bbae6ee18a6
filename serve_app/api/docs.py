"""`GET /openapi.json` and `GET /docs`: the document, and a page that reads without internet access or
scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import orjson

from serve_app.api.http import JSON, Reply, Request
from serve_app.api.openapi import document
from serve_app.api.routing import Route
from serve_app.types import Limits, ServedModel

_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #8882; padding: .75rem; overflow-x: auto; font-size: .85rem; }
h2 { font-family: monospace; border-top: 1px solid #8886; padding-top: 1rem; }
"""


class Documents:
    """Both documents, written once when the app is built."""

    def __init__(self) -> None:
        self._json = self._html = b""

    def write(self, routes: Sequence[Route], models: Sequence[ServedModel], limits: Limits, version: str) -> None:
        """Describe `routes`; these include the two that serve the documents."""
        described = document(routes, models, limits, version)
        self._json = orjson.dumps(described)
        self._html = page(described).encode()

    async def openapi(self, request: Request) -> Reply:
        """`GET /openapi.json`."""
        return Reply(200, self._json, JSON)

    async def docs(self, request: Request) -> Reply:
        """`GET /docs`."""
        return Reply(200, self._html, b"text/html; charset=utf-8")


def page(described: dict[str, Any]) -> str:
    """An OpenAPI document as one HTML page with links between its parts."""
    info = described["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}</p>",
    ]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                parts.append(f"<p>Request: {_body(operation['requestBody'])}</p>")
            items = "".join(
                f"<li>{escape(status)}: {_body(response)}</li>" for status, response in operation["responses"].items()
            )
            parts.append(f"<ul>{items}</ul>")
    parts.append("<h1>Schemas</h1>")
    for name, schema in described["components"]["schemas"].items():
        text = escape(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2><pre>{text}</pre>')
    head = f'<meta charset="utf-8"><title>{escape(info["title"])}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _body(described: dict[str, Any]) -> str:
    links = []
    for media_type, content in described["content"].items():
        names = _REFERENCE.findall(orjson.dumps(content).decode())
        links += [f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names] or [escape(media_type)]
    return ", ".join(links)
