"""Which commit of a repository on Hugging Face a branch or tag stands for.

A branch moves. What is started at different times and has to be one model goes by the commit instead.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

log = logging.getLogger(__name__)

HUB_SECONDS = 10.0
"""For all of it: a firewall that drops packets must not keep a service from starting with what the cache has."""

# In every model's repository, so its place in the cache says the commit.
_FILE = "config.json"


def commit_of(model: str, revision: str | None) -> str | None:
    """The commit (40 hexadecimal digits) that `revision`, or the main branch, of the Hugging Face id `model` is at.

    The hub is asked first, and what it says noted in the cache, for starts without a network; then the cache. None if neither knows.
    """
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # The client's own timeouts are for each address of a host and each read.
    threading.Thread(target=lambda: said.put(_on_hub(model, revision)), daemon=True).start()
    try:
        found = said.get(timeout=HUB_SECONDS)
    except queue.Empty:
        found = None
        log.debug("The hub didn't answer within %g s", HUB_SECONDS)
    return found or _cached(model, revision)


def _on_hub(model: str, revision: str | None) -> str | None:
    try:
        # Unlike the download, it isn't tried again and again where there is no network.
        found = HfApi().model_info(model, revision=revision, timeout=HUB_SECONDS).sha
    except Exception as error:  # the client raises many: no network, no access, told to be offline
        log.debug("The hub doesn't say which commit it is: %s", type(error).__name__)
        return None
    try:
        return _commit_in(hf_hub_download(model, _FILE, revision=revision, etag_timeout=HUB_SECONDS)) or found
    except Exception as error:
        log.debug("The cache can't note the commit: %s", type(error).__name__)
        return found


def _cached(model: str, revision: str | None) -> str | None:
    try:
        file = try_to_load_from_cache(model, _FILE, revision=revision)
    except HFValidationError:
        return None  # no id at all; whoever loads it says so
    return _commit_in(file) if isinstance(file, str) else None


def _commit_in(file: str) -> str | None:
    """The commit in models--OWNER--NAME/snapshots/COMMIT/config.json."""
    folder = Path(file).parent
    return folder.name if folder.parent.name == "snapshots" else None
