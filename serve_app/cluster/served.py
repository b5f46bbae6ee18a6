"""The model as the gateway knows it: its description, its tokenizer, its name for clients. No weights, no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from serve_app.config import Settings
from serve_app.engine.checkpoint import Checkpoint, resolve
from serve_app.engine.tokenizer import Tokenizer
from serve_app.errors import CheckpointError
from serve_app.types import ServedModel


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A checkpoint that can be served under these settings."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    served: ServedModel
    fingerprint: str


def open_model(settings: Settings) -> OpenedModel:
    """Fetch if need be and read the model's description and tokenizer. Raises `CheckpointError` if it can't be served."""
    checkpoint = Checkpoint.read(resolve(settings.model, settings.revision, weights=False))
    longest = checkpoint.config.max_position_embeddings
    if settings.limits.max_input_tokens > longest:
        raise CheckpointError(
            f"limits.max_input_tokens is {settings.limits.max_input_tokens}, but {settings.model} goes up to {longest}"
        )
    is_folder = Path(settings.model).expanduser().is_dir()
    name = checkpoint.path.resolve().name if is_folder else settings.model
    served = ServedModel(
        id=settings.served_model_name or name,
        dimensions=checkpoint.config.hidden_size,
        max_input_tokens=settings.limits.max_input_tokens,
        revision=checkpoint.revision,
        created=int((checkpoint.path / "config.json").stat().st_mtime),
        demo=checkpoint.demo,
    )
    return OpenedModel(checkpoint, Tokenizer.read(checkpoint.path), served, fingerprint(settings, checkpoint.path))


def fingerprint(settings: Settings, folder: Path) -> str:
    """Equal in gateways and replicas of one model, different for another model, revision or tokenizer. Weights aren't read."""
    digest = hashlib.sha256(f"{settings.model}@{settings.revision}".encode())
    for name in ("config.json", "tokenizer.json"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
