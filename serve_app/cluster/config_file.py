"""A Serve config file, looked over before it is deployed.

Serve itself checks `args` when it builds the application, but hands `user_config` on unseen: replicas that run refuse a bad one
with no more than a line in their log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from serve_app.cluster.guarding import keys_of
from serve_app.cluster.usage import pricing
from serve_app.config import EMBEDDER_LIVE, GATEWAY_LIVE, Settings

IMPORT_PATH = "serve_app:build"
LIVE: dict[str, Sequence[str]] = {"Gateway": GATEWAY_LIVE, "Embedder": EMBEDDER_LIVE}


def problems(file: bytes) -> list[str]:
    """What can't be used in the applications of this package, each with its place; empty if all can."""
    try:
        config = msgspec.yaml.decode(file, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        return [f"This is no Serve config file: {error}"]
    ours = [each for each in config.get("applications") or [] if each.get("import_path") == IMPORT_PATH]
    if not ours:
        return [f"No application has import_path: {IMPORT_PATH}"]
    return [problem for application in ours for problem in _in_application(application)]


def _in_application(application: dict[str, Any]) -> Iterator[str]:
    try:
        settings = Settings.model_validate(application.get("args") or {})
    except ValidationError as error:
        yield f"args: {reasons(error)}"
        return
    # A price book of one's own needs to be on the gateways' nodes, not here.
    if settings.cost.price_book is None or Path(settings.cost.price_book).exists():
        try:
            pricing(settings.cost)
        except ValueError as error:
            yield f"args: cost: {error}"
    # The same goes for the file of API keys.
    if settings.auth.keys_file is not None and Path(settings.auth.keys_file).exists():
        try:
            keys_of(settings.auth)
        except ValueError as error:
            yield f"args: auth: {error}"
    for deployment in application.get("deployments") or []:
        name = str(deployment.get("name"))
        if name not in LIVE:
            yield f"deployments: there is no {name}, only {' and '.join(LIVE)}"
            continue
        try:
            settings.with_live(deployment.get("user_config") or {}, LIVE[name])
        except ValueError as error:
            yield f"user_config of {name}: {reasons(error)}"


def reasons(error: Exception) -> str:
    """One line for each field that can't be used."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in found)
