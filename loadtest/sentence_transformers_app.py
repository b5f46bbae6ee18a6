"""What to compare with: sentence-transformers behind a minimal FastAPI, as one writes it in half an hour.

python -m loadtest.sentence_transformers_app --model Qwen/Qwen3-Embedding-0.6B --port 8001

`POST /v1/embeddings` with OpenAI's fields, one `encode` per request in FastAPI's thread pool, one at a time. No batching of
requests, no limits, no retries: that is the point.
"""

from __future__ import annotations

import argparse
import base64
import threading
from pathlib import Path
from typing import Literal

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

from serve_app.engine.demo import demo_checkpoint
from serve_app.types import DEMO_MODEL_ID


class EmbeddingsRequest(BaseModel):
    """OpenAI's, of strings."""

    input: str | list[str]
    model: str
    encoding_format: Literal["float", "base64"] = "float"


def build(model: str, device: str | None = None) -> FastAPI:
    """The application around a model: an id on Hugging Face, a local folder, or the demo checkpoint's id."""
    folder = str(demo_checkpoint()) if model == DEMO_MODEL_ID else model
    pipeline = SentenceTransformer(folder, device=device)
    if pipeline.device.type == "cpu":
        pipeline.float()  # as the engine computes there, whatever the weights are stored in
    served = Path(model).name
    app = FastAPI()
    alone = threading.Lock()

    @app.get("/v1/models")
    def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": served, "object": "model"}]}

    @app.post("/v1/embeddings")
    def embeddings(request: EmbeddingsRequest) -> dict[str, object]:
        texts = [request.input] if isinstance(request.input, str) else request.input
        with alone:
            vectors = pipeline.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        tokens = sum(len(ids) for ids in pipeline.tokenizer(texts)["input_ids"])
        as_base64 = request.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else row.tolist(),
            }
            for index, row in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": served, "usage": usage}

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO_MODEL_ID)
    parser.add_argument("--device", help="default: CUDA if there is one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    options = parser.parse_args()
    uvicorn.run(build(options.model, options.device), host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
