"""Settings that change while a replica serves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve_app.cluster.config_file import reasons
from serve_app.config import Settings
from serve_app.errors import CheckpointError

logger = logging.getLogger(__name__)


class LiveSettings:
    """The settings of a replica: what it was started with, and over it the latest `user_config` that could be applied.

    `sections` may be in a `user_config`. `apply` gets the new settings and the ones before; it raises ValueError or
    `CheckpointError`, and has changed nothing then, for what it can't apply.
    """

    def __init__(
        self, settings: Settings, sections: Sequence[str], apply: Callable[[Settings, Settings], None]
    ) -> None:
        self.current = settings
        self._started_with = settings
        self._sections = sections
        self._apply = apply
        self._starting = True

    def change(self, user_config: Mapping[str, Any]) -> None:
        """Take over a `user_config`; what it doesn't name is again as the replica was started.

        The first one belongs to the start: one that can't be applied raises, and the replica doesn't start. Later ones are refused
        with a line in the log, and the settings stay: Serve would stop a replica that raises, and in the end all of them.
        """
        starting, self._starting = self._starting, False
        try:
            settings = self._started_with.with_live(user_config, self._sections)
            if settings == self.current:
                return
            self._apply(settings, self.current)
        except (ValueError, CheckpointError) as error:
            if starting:
                raise ValueError(f"user_config can't be applied: {reasons(error)}") from error
            logger.error("user_config can't be applied, so the settings stay as they were: %s", reasons(error))
            return
        logger.info("Settings changed by user_config: %s", differences(self.current, settings, self._sections))
        self.current = settings


def differences(before: Settings, after: Settings, sections: Sequence[str]) -> str:
    """The fields of `sections` that differ, each with its new value: `limits.max_inputs=4, …`."""
    old, new = before.live(sections), after.live(sections)
    return ", ".join(
        f"{section}.{field}={value}"
        for section in sections
        for field, value in new[section].items()
        if value != old[section][field]
    )
