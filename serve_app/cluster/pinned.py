"""One deployment, one commit: a branch's name becomes the commit it is at, before anybody loads the model."""

from __future__ import annotations

import logging

from serve_app.config import Settings
from serve_app.engine.checkpoint import is_hub_id
from serve_app.engine.commit import commit_of

logger = logging.getLogger(__name__)


def pinned(settings: Settings) -> Settings:
    """The settings with the commit as their `revision`, so that replicas started at any time load the same, and fingerprints tell it
    from others. Of a local folder, and where nobody knows the commit, as they are."""
    if not is_hub_id(settings.model):
        return settings
    commit = commit_of(settings.model, settings.revision)
    if commit is None:
        logger.warning(
            "Neither Hugging Face nor the cache here says which commit %s of %s is. Replicas that start before and after a push to it "
            "would serve two models as one: set `revision` to a commit.",
            settings.revision or "the main branch",
            settings.model,
        )
        return settings
    if commit != settings.revision:
        logger.info("%s is served at its commit %s", settings.model, commit)
    return settings.model_copy(update={"revision": commit})
