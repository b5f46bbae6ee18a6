"""The service that Ray Serve's tutorial leads to, around this project's own engine, to compare against.

A FastAPI ingress deployment makes one `handle.remote()` per request to a model deployment, which runs a
batch of one; Serve's defaults everywhere: the Python proxy, no `RAY_SERVE_*` variable, its access log. All
but one: `max_ongoing_requests` is 100, Serve's default until Ray 2.32. Today's default of 5 makes a replica
refuse what is over and the router ask again after a pause, which costs nine tenths of the throughput at 32
connections; nobody would leave it at that.

python -m loadtest.naive_app --port 8001
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of a class that Serve has pickled.

import argparse
import base64
import logging
import os
import signal
from typing import Any, Literal

import numpy as np
import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.types import DEMO_MODEL_ID, Vectors

app = FastAPI()


class EmbeddingsRequest(BaseModel):
    """The part of OpenAI's request that the benchmark uses."""

    model: str
    input: str
    encoding_format: Literal["float", "base64"] = "float"


@serve.deployment
class Model:
    """Tokenizer and engine."""

    def __init__(self, model: str, threads: int) -> None:
        from serve_app.engine.checkpoint import resolve
        from serve_app.engine.engine import Engine
        from serve_app.engine.tokenizer import Tokenizer

        self._tokenizer = Tokenizer.read(resolve(model))
        self._engine = Engine.load(model, device="cpu", threads=threads)
        self._engine.warmup()

    def embed(self, text: str) -> tuple[Vectors, int]:
        """The vector of one text, and its tokens."""
        ids = self._tokenizer.encode(text)
        return self._engine.encode([ids])[0], len(ids)


@serve.deployment
@serve.ingress(app)
class Ingress:
    """The HTTP surface."""

    def __init__(self, model: DeploymentHandle) -> None:
        self._model = model

    @app.post("/v1/embeddings")
    async def embeddings(self, request: EmbeddingsRequest) -> dict[str, Any]:
        """One text in, one vector out."""
        vector, tokens = await self._model.embed.remote(request.input)
        little = np.ascontiguousarray(vector, dtype="<f4")
        base64_asked = request.encoding_format == "base64"
        embedding = base64.b64encode(little).decode() if base64_asked else little.tolist()
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
            "model": request.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def main() -> None:
    """Serve until SIGTERM or Ctrl-C, on a Ray of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--model", default=DEMO_MODEL_ID)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads of the model")
    parser.add_argument("--max-ongoing-requests", type=int, default=100, help="of both deployments")
    options = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=max(2, os.cpu_count() or 1),  # one each is what a deployment reserves by default
        object_store_memory=256 * 1024 * 1024,
        include_dashboard=False,
        logging_level=logging.WARNING,
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        most = options.max_ongoing_requests
        model = Model.options(max_ongoing_requests=most).bind(options.model, options.threads)
        serve.run(Ingress.options(max_ongoing_requests=most).bind(model), name="naive")
        print(f"Ready: http://127.0.0.1:{options.port}/v1", flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
