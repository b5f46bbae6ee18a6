"""A server in this process that speaks OpenAI's and Cohere's contracts: their paths, keys, limits, replies and errors.

`POST /v1/embeddings` is OpenAI's and `POST /v2/embed` Cohere's. Vectors follow from the texts; a token is a word, for Cohere two.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import orjson

WIDTH = 8
STAGES = {"x-tokenize-ms": "1.0", "x-queue-ms": "0.5", "x-inference-ms": "2.0", "x-render-ms": "0.25"}


@dataclass
class Hosted:
    """What the server has seen, and how it behaves. `trouble` may answer a request (status, body, headers) instead."""

    key: str | None = None
    stages: bool = False
    delay: float = 0.0
    token: Callable[[str], int] = lambda text: len(text.split())
    trouble: Callable[[dict[str, Any]], tuple[int, bytes, dict[str, str]] | None] = lambda body: None
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each of `bodies`, by names in lower case."""
    answered: int = 0
    tokens: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Lock = field(default_factory=threading.Lock)
    """For `trouble` to stop everybody with."""

    def release_after(self, seconds: float) -> None:
        """Open the gate, from a thread of its own."""
        threading.Timer(seconds, self.gate.release).start()

    @classmethod
    @contextmanager
    def running(cls, **options: Any) -> Iterator[Hosted]:
        hosted = cls(**options)
        with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hosted": hosted})) as server:
            hosted.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield hosted
            finally:
                server.shutdown()
                thread.join()


def vector(text: str) -> np.ndarray:
    """Of unit length."""
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
    found = draw.normal(size=WIDTH).astype(np.float32)
    return found / np.linalg.norm(found)


class _Handler(BaseHTTPRequestHandler):
    hosted: Hosted
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": "words-1", "object": "model"}]})
        elif self.path == "/version":
            self.answer(200, {"version": "9.9"})
        else:
            self.answer(404, {"error": {"message": "no", "type": "x", "param": None, "code": None}})

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        hosted = self.hosted
        with hosted.lock:
            hosted.bodies.append(body)
            hosted.headers.append({name.lower(): value for name, value in self.headers.items()})
        if hosted.delay:
            time.sleep(hosted.delay)
        if (found := hosted.trouble(body)) is not None:
            self.answer(*found)
        elif self.path == "/v1/embeddings":
            self.openai(body)
        elif self.path == "/v2/embed":
            self.cohere(body)
        else:
            self.answer(404, b"nothing here")

    def openai(self, body: dict[str, Any]) -> None:
        def refuse(status: int, message: str, code: str | None = None) -> None:
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            self.answer(status, {"error": error})

        if self.hosted.key and self.headers["authorization"] != f"Bearer {self.hosted.key}":
            given = (self.headers["authorization"] or "").removeprefix("Bearer ")
            refuse(401, f"Incorrect API key provided: {given[:6]}***{given[-4:]}.", "invalid_api_key")
            return
        if unknown := set(body) - {"input", "model", "dimensions", "encoding_format", "user"}:
            refuse(400, f"Unrecognized request argument supplied: {sorted(unknown)}")
            return
        if body["model"] != "words-1":
            refuse(404, f"The model `{body['model']}` does not exist", "model_not_found")
            return
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        if not 1 <= len(texts) <= 2048 or "" in texts:
            refuse(400, "'$.input' is invalid.")
            return
        as_base64 = body.get("encoding_format") == "base64"
        vectors = [vector(text) for text in texts]
        tokens = self.count(texts, 1)
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": base64.b64encode(found.astype("<f4").tobytes()).decode() if as_base64 else found.tolist(),
            }
            for i, found in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self.answer(200, {"object": "list", "data": data, "model": "words-1", "usage": usage})

    def cohere(self, body: dict[str, Any]) -> None:
        def refuse(status: int, message: str) -> None:
            self.answer(status, {"message": message, "id": "1"})

        if self.hosted.key and self.headers["authorization"] != f"Bearer {self.hosted.key}":
            refuse(401, "invalid api token")
            return
        if body.get("input_type") not in ("search_document", "search_query", "classification", "clustering"):
            refuse(400, "invalid request: valid input_type must be provided with the provided model")
            return
        if (count := len(body["texts"])) > 96:
            refuse(400, f"invalid request: total number of texts must be at most 96 - received {count}")
            return
        if body["model"] != "words-1":
            refuse(404, f"model '{body['model']}' not found")
            return
        tokens = self.count(body["texts"], 2)
        reply = {
            "id": "1",
            "embeddings": {"float": [vector(text).tolist() for text in body["texts"]]},
            "texts": body["texts"],
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
            "response_type": "embeddings_by_type",
        }
        self.answer(200, reply)

    def count(self, texts: list[str], each: int) -> int:
        tokens = each * sum(map(self.hosted.token, texts))
        with self.hosted.lock:
            self.hosted.answered += 1
            self.hosted.tokens += tokens
        return tokens

    def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        self.send_response(status)
        more = STAGES if self.hosted.stages and status == 200 else {}
        for name, value in {"content-length": str(len(content)), **more, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
