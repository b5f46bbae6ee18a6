"""How long a caller is willing to wait."""

from __future__ import annotations

import math

from serve_app.api.http import TIMEOUT, Request
from serve_app.errors import InvalidRequestError

TIMEOUT_MEANS = (
    "Seconds from the request's arrival until 408 is a better answer than a late one, within the server's range."
)


def timeout_seconds(request: Request) -> float | None:
    """The caller's `x-request-timeout-seconds`; None if it names none.

    Raises `InvalidRequestError` unless it is a finite number above 0. What is asked for is not yet bound to what
    the server allows.
    """
    if request.timeout is None:
        return None
    try:
        seconds = float(request.timeout)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        name = TIMEOUT.decode()
        raise InvalidRequestError(f"The header '{name}' must be a number of seconds above 0.", name)
    return seconds
