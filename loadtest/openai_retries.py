"""When the `openai` client would try again, asked of the installed client itself, for load that a raw client makes in its place.

A real client costs about a millisecond of CPU a request, too much for a thousand a second beside the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace

import httpx
from openai import OpenAI
from openai._models import FinalRequestOptions


def openai_retry_delay(status: int, headers: Mapping[str, str], tries: int) -> float | None:
    """Seconds until the next try of a client with its defaults; None if it gives up, or has no reason to try again.

    `tries` is how many there were; `status` 0 stands for a lost connection.
    """
    client = _client()
    left = client.max_retries - (tries - 1)
    answer = SimpleNamespace(status_code=status or 503, headers=httpx.Headers(dict(headers)))
    if left <= 0 or status == 200 or not client._should_retry(answer):  # type: ignore[arg-type]
        return None
    options = FinalRequestOptions.construct(method="post", url="/embeddings")
    return client._calculate_retry_timeout(left, options, answer.headers)


@cache
def _client() -> OpenAI:
    return OpenAI(api_key="EMPTY", base_url="http://localhost/v1")
