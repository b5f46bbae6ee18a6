"""A line in the log for requests: who asked for how much, what became of it and how long it took. Never what was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from serve_app.api.app import Outcome
from serve_app.api.routing import OPS
from serve_app.telemetry.logs import FIELDS

logger = logging.getLogger(__name__)

Which = Literal["none", "failed", "all"]


def logging_too(count: Callable[[Outcome], None], which: Which) -> Callable[[Outcome], None]:
    """`count`, and a line after it for requests that failed (status 400 or more), or for all but what operators ask and get."""
    if which == "none":
        return count

    def observe(outcome: Outcome) -> None:
        count(outcome)
        if outcome.status >= 400 or (which == "all" and outcome.dialect != OPS):
            logger.info("request", extra={FIELDS: fields(outcome)})

    return observe


def fields(outcome: Outcome) -> dict[str, object]:
    """What is told of a request: all of it is ours, but for the id, which is the caller's where that is fit for logs. `path` is the
    route's, None where there is none."""
    told: dict[str, object] = {
        "request_id": outcome.request_id,
        "key": outcome.key or None,
        "method": outcome.method or None,
        "path": outcome.path or None,
        "dialect": outcome.dialect,
        "model": outcome.model or None,
        "status": outcome.status,
        "code": outcome.code,
        "inputs": outcome.inputs,
        "prompt_tokens": outcome.prompt_tokens,
        "ms": round(outcome.seconds * 1e3, 3),
    }
    return told | {f"{stage.value}_ms": round(seconds * 1e3, 3) for stage, seconds in outcome.stage_seconds.items()}
