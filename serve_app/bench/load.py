"""How a target is loaded: by callers who wait for their answers, or at a rate whatever becomes of the answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Either so many `callers`, each with one request under way at all times (closed loop), or `rate` requests a second at random
    moments (open loop). `share` stands for a rate yet to be found: so much of what the slowest target did with most callers."""

    callers: int = 0
    rate: float = 0.0
    share: float = 0.0

    @property
    def name(self) -> str:
        """What tables call it."""
        if self.callers:
            return f"{self.callers} caller{'s' if self.callers > 1 else ''}"
        return f"{self.rate:,.4g}/s" if self.rate else f"{100 * self.share:g}% of the slowest"

    @property
    def open(self) -> bool:
        """Whether requests leave whatever becomes of those before."""
        return not self.callers

    def at(self, slowest: float) -> Load:
        """With a share turned into a rate, `slowest` being the slowest target's requests a second."""
        return Load(rate=self.share * slowest, share=self.share) if self.share and not self.rate else self


def callers(text: str) -> list[Load]:
    """Closed loops from `1,8,32`. Raises `ValueError`."""
    found = [int(part) for part in text.split(",") if part]
    if any(count < 1 for count in found):
        raise ValueError(f"{text!r} has fewer callers than one")
    return [Load(callers=count) for count in found]


def rates(text: str) -> list[Load]:
    """Open loops from `50,200` or `70%`. Raises `ValueError`."""
    found = []
    for part in text.split(","):
        if not part:
            continue
        share = part.endswith("%")
        value = float(part.removesuffix("%")) / (100 if share else 1)
        if not 0 < value < float("inf"):
            raise ValueError(f"{part!r} is no rate")
        found.append(Load(share=value) if share else Load(rate=value))
    return found
