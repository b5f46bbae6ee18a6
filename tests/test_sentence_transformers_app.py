"""The server to compare with answers as OpenAI's API does, with the engine's vectors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn

from loadtest.sentence_transformers_app import build
from loadtest.workload import tokenizer
from serve_app.bench.dialects import DIALECTS
from serve_app.bench.preflight import check
from serve_app.bench.target import Target
from serve_app.cluster.instance import free_port
from serve_app.engine.engine import Engine
from serve_app.types import DEMO_MODEL_ID

TEXTS = ["The harbour master sold two wooden boats.", "港口"]


@contextmanager
def served() -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(build(DEMO_MODEL_ID, "cpu"), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_it_can_be_compared_with() -> None:
    ids = tokenizer().encode_batch(TEXTS)
    expected = Engine.load(DEMO_MODEL_ID, device="cpu").encode(ids)
    with served() as url:
        for encoding in ("float", "base64"):
            body = {"model": "demo", "input": TEXTS, "encoding_format": encoding}
            reply = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).raise_for_status()
            np.testing.assert_allclose(DIALECTS["openai"].vectors(reply.content, 2), expected, atol=1e-5)
            assert DIALECTS["openai"].tokens(reply.content) == sum(map(len, ids))
        found = check(Target("st", url, DIALECTS["openai"]), ["query"], seed=0)
    assert (found.target.model, found.width) == ("demo", expected.shape[1])
