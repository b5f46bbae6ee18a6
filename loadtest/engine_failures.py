"""Contestants that can't run: what they raise is noted, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


class Failures:
    """Names, and why they failed."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.of

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """An exception in here is noted, printed, and goes no further."""
        try:
            yield
        except Exception as error:
            lines = str(error).strip().splitlines()
            self.of[name] = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
            print(f"failed    {name}: {self.of[name]}", flush=True)
        else:
            return
        if torch.cuda.is_initialized():
            with suppress(RuntimeError):  # as all calls do once the device is lost
                torch.cuda.empty_cache()
