"""Which checkpoints have known scores, and whether a folder is one of them.

A checkpoint is recognised by what it is, never by what it is called or shaped like: a fine-tune has its base model's shapes, and often
its name. The folder's own golden file comes first, then its commit on the Hugging Face hub, then the SHA-256 of its weights.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from serve_app.engine.checkpoint import Checkpoint
from serve_app.engine.golden import Golden, WeightFile

FOLDER = Path(__file__).with_name("known")
OWN_FILE = "embedserve_golden.json"
"""In a model's folder: what this model gives, recorded by whoever made it."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Recognised:
    """A checkpoint with known scores, and what it was known by."""

    golden: Golden
    by: str


def known_checkpoints() -> list[Golden]:
    """All that this package knows scores of."""
    return [Golden.read(file) for file in sorted(FOLDER.glob("*.json"))]


def recognise(checkpoint: Checkpoint) -> Recognised | None:
    """What `checkpoint` is, if that is known.

    Hashes weights only where all their sizes are a known checkpoint's. Raises `CheckpointError` for a golden file that can't be read.
    """
    own = checkpoint.path / OWN_FILE
    if own.is_file():
        return Recognised(Golden.read(own), f"the {OWN_FILE} in its folder")
    known = known_checkpoints()
    if (published := by_revision(checkpoint.name, checkpoint.revision, known)) is not None:
        return Recognised(published, f"its commit {checkpoint.revision}")
    files = weight_files(checkpoint.path)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    for golden in known:
        if golden.weights and sizes == {name: weights.bytes for name, weights in golden.weights.items()}:
            hashes = sha256_of(files)
            if hashes == {name: weights.sha256 for name, weights in golden.weights.items()}:
                return Recognised(golden, "the SHA-256 of its weights")
    return None


def by_revision(name: str, revision: str | None, known: list[Golden] | None = None) -> Golden | None:
    """The known checkpoint that has this name and commit on the hub."""
    for golden in known_checkpoints() if known is None else known:
        if revision is not None and golden.model == name and revision in golden.revisions:
            return golden
    return None


def weights_of(checkpoint: Checkpoint) -> dict[str, WeightFile]:
    """Size and hash of a checkpoint's safetensors files, by name."""
    files = weight_files(checkpoint.path)
    return {name: WeightFile(files[name].stat().st_size, sha256) for name, sha256 in sha256_of(files).items()}


def weight_files(path: Path) -> dict[str, Path]:
    """The safetensors files of a checkpoint's folder that hold weights, by name."""
    return {file.name: file for file in sorted(path.glob("model*.safetensors"))}


def sha256_of(files: dict[str, Path], *, trust_names: bool = True) -> dict[str, str]:
    """The SHA-256 of each file, by name; all at once, since hashing doesn't hold the GIL.

    In the Hugging Face cache files are links to what is named by its SHA-256. With `trust_names` that name will do: it says what the
    file ought to be, at once, and scores tell what it is.
    """
    with ThreadPoolExecutor(max_workers=4) as threads:
        return dict(zip(files, threads.map(lambda file: _sha256(file, trust_names), files.values()), strict=True))


def _sha256(file: Path, trust_name: bool) -> str:
    target = file.resolve().name
    if trust_name and file.is_symlink() and _SHA256.fullmatch(target):
        return target
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
