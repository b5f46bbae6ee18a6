"""Inputs of one tenant with the same token ids that wait at the same time: one of them is computed, for all."""

from __future__ import annotations

from serve_app.engine.submission import Input, ShareKey


class Twins:
    """The inputs that wait and may share their answer, by their keys. One without a key is by itself."""

    def __init__(self) -> None:
        self._waiting: dict[ShareKey, dict[Input, None]] = {}  # of each in the order of arrival

    def __len__(self) -> int:
        """Different inputs that wait."""
        return len(self._waiting)

    def add(self, item: Input) -> None:
        """`item` waits from now on."""
        if item.key is not None:
            self._waiting.setdefault(item.key, {})[item] = None

    def take(self, item: Input) -> list[Input]:
        """All that are like `item`, itself included, which wait no more; none if it was taken along with another."""
        return [item] if item.key is None else list(self._waiting.pop(item.key, ()))

    def forget(self, item: Input) -> None:
        """`item` waits no more, if it did."""
        if item.key is not None and (twins := self._waiting.get(item.key)):
            twins.pop(item, None)
            if not twins:
                del self._waiting[item.key]
