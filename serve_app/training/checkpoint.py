"""A trained model as a checkpoint folder, in the published layout."""

from __future__ import annotations

from pathlib import Path

from serve_app.engine.demo import describe
from serve_app.engine.demo_weights import write_file
from serve_app.engine.layout import tensor_shapes
from serve_app.training.train import Trained

_README = """# embedserve's demo model

A small model in the architecture and file layout of the Qwen3-Embedding models. `serve_app.training` trained it in minutes, on a few
thousand Chinese, English, Japanese and Spanish sentences that were written for embedserve. It shows what an embedding service does. Of
most words it knows nothing: serve a published model for real use.
"""


def write_checkpoint(folder: Path, trained: Trained) -> Path:
    """Write tokenizer, weights and descriptions into `folder` and return it; the same model gives the same bytes."""
    config = trained.model.config
    describe(folder, config, trained.tokenizer, _README)
    tensors = {name: trained.model.tensor(name).detach().numpy() for name in tensor_shapes(config)}
    write_file(folder / "model.safetensors", tensors, config.dtype)
    return folder
