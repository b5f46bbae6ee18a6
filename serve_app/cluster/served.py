"""The model as the gateway knows it: its description, its tokenizer, its name for clients. No weights, no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.config import Settings, default_tokens
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

    def served_up_to(self, tokens: int) -> ServedModel:
        """Its description with another limit on an input. Raises `CheckpointError` for one beyond the model's own."""
        return replace(self.served, max_input_tokens=within(tokens, self.checkpoint))


def run_with(served: ServedModel, settings: Settings, num_gpus: float) -> ServedModel:
    """`served` with what clients may know of how Embedders run it, each with so many GPUs."""
    batch = settings.batch
    return replace(
        served,
        dtype=("bfloat16" if num_gpus else "float32") if settings.dtype == "auto" else settings.dtype,
        device="gpu" if num_gpus else "cpu",
        max_batch_tokens=batch.max_tokens or default_tokens(num_gpus),
        max_batch_inputs=batch.max_inputs,
    )


def within(tokens: int, checkpoint: Checkpoint) -> int:
    """`tokens` as a limit on an input. Raises `CheckpointError` if the model doesn't go so far."""
    longest = checkpoint.config.max_position_embeddings
    if tokens > longest:
        raise CheckpointError(f"limits.max_input_tokens is {tokens}, but {checkpoint.name} goes up to {longest}")
    return tokens


def open_model(settings: Settings) -> OpenedModel:
    """Fetch if need be and read the model's description and tokenizer. Raises `CheckpointError` if it can't be served."""
    checkpoint = Checkpoint.read(resolve(settings.model, settings.revision, weights=False))
    served = ServedModel(
        id=served_id(settings, checkpoint.path),
        dimensions=checkpoint.config.hidden_size,
        max_input_tokens=within(settings.limits.max_input_tokens, checkpoint),
        revision=checkpoint.revision,
        created=int((checkpoint.path / "config.json").stat().st_mtime),
        demo=checkpoint.demo,
        aliases=tuple(settings.model_aliases),
        prompts=named_prompts(checkpoint, settings),
    )
    return OpenedModel(checkpoint, Tokenizer.read(checkpoint.path), served, fingerprint(settings, checkpoint.path))


def named_prompts(checkpoint: Checkpoint, settings: Settings) -> dict[str, str]:
    """The checkpoint's prompts, with those of the settings over them. Raises `CheckpointError` for one that isn't text."""
    for name, prompt in checkpoint.prompts.items():
        if not isinstance(prompt, str):
            raise CheckpointError(
                f"{checkpoint.path / 'config_sentence_transformers.json'}: the prompt {name!r} isn't text"
            )
    return {**checkpoint.prompts, **settings.prompts}


def served_id(settings: Settings, folder: Path) -> str:
    """The id that clients know the model in `folder` by."""
    is_folder = Path(settings.model).expanduser().is_dir()
    return settings.served_model_name or (folder.resolve().name if is_folder else settings.model)


def fingerprint(settings: Settings, folder: Path) -> str:
    """Equal in gateways and replicas that give equal vectors: another for another model, revision, tokenizer or dtype. Weights
    aren't read."""
    digest = hashlib.sha256(f"{settings.model}@{settings.revision} {settings.dtype}".encode())
    for name in ("config.json", "tokenizer.json"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]
