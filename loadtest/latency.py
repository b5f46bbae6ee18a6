"""What the whole stack adds to one request on an idle machine, against the bare engine in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from loadtest.http_client import Address, Connection
from loadtest.report import percentile
from loadtest.workload import Workload, body
from serve_app.engine.engine import Engine
from serve_app.engine.tokenizer import Tokenizer

# Between two calls, so that the threads of the one have gone to sleep before the other starts.
PAUSE_SECONDS = 0.005


def added_latency(
    url: str, model: str, engine: Engine, tokenizer: Tokenizer, workload: Workload, first: int, requests: int
) -> dict[str, Any]:
    """Milliseconds of `requests` texts, each once over HTTP and once through tokenizer and engine here.

    The two take turns at going first. The first tenth of the pairs is not counted.
    """
    address = Address.of(url)
    over_http: list[float] = []
    bare: list[float] = []
    with Connection(address) as connection:

        def ask(text: str) -> None:
            # The request is framed within the time: a client has to, too.
            status = connection.exchange(address.frame(body(model, [text]))).status
            if status != 200:
                raise RuntimeError(f"{url} answered {status}")

        def encode(text: str) -> None:
            engine.encode(tokenizer.encode_batch([text]))

        for i in range(requests):
            text = workload.text(first + i)
            turns = [(ask, over_http), (encode, bare)]
            for run, times in turns if i % 2 else reversed(turns):
                time.sleep(PAUSE_SECONDS)
                times.append(1e3 * _seconds(run, text))
    counted = slice(requests // 10, None)
    http_ms, bare_ms = over_http[counted], bare[counted]
    return {
        "requests": len(http_ms),
        "http_ms": {"p50": percentile(http_ms, 50), "p99": percentile(http_ms, 99)},
        "engine_ms": {"p50": percentile(bare_ms, 50), "p99": percentile(bare_ms, 99)},
        "added_ms": percentile(http_ms, 50) - percentile(bare_ms, 50),
        "added_ms_by_fifths": [
            percentile(h, 50) - percentile(b, 50)
            for h, b in zip(np.array_split(http_ms, 5), np.array_split(bare_ms, 5), strict=True)
        ],
    }


def _seconds(run: Callable[[str], None], text: str) -> float:
    begin = time.perf_counter()
    run(text)
    return time.perf_counter() - begin
