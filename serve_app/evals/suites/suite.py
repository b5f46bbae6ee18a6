"""One kind of measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.evals.dataset import SHIPPED, Folder, digest
from serve_app.evals.encoder import Encoder
from serve_app.evals.result import SuiteResult


@dataclass(frozen=True)
class Suite:
    """`read` makes of a folder what `texts_of` and `measure_with` take; `shipped` names the folders of the texts that come with it."""

    name: str
    about: str
    read: Callable[[Folder], Any]
    texts_of: Callable[[Any], list[str]]
    measure_with: Callable[[Any, Encoder, int], SuiteResult]
    shipped: tuple[str, ...]

    def load(self, folder: Path | None = None) -> Any:
        """The data of a user's folder, or what is shipped. Raises `DataError` that lists whatever is wrong in it."""
        return [self.read(Folder(path)) for path in self.folders(folder)]

    def folders(self, folder: Path | None) -> list[Path]:
        """Where the data is."""
        return [SHIPPED / name for name in self.shipped] if folder is None else [folder]

    def digest(self, folder: Path | None = None) -> str:
        """SHA-256 of the data, hexadecimal: equal figures can be expected of equal data only."""
        return hashlib.sha256("".join(map(digest, self.folders(folder))).encode()).hexdigest()

    def texts(self, data: Any) -> list[str]:
        """Every text that `measure` will ask for, once each."""
        return list(dict.fromkeys(text for part in data for text in self.texts_of(part)))

    def measure(self, data: Any, encoder: Encoder, seed: int = 0) -> SuiteResult:
        """Figures, samples and plots of one target. Raises what `encoder.encode` raises."""
        return self.measure_with(data, encoder, seed)
