"""The open-loop load generator, and when it tries again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import orjson
import pytest
from openai import DEFAULT_MAX_RETRIES

from loadtest.open_loop import NO_ANSWER, OpenPlan, OpenRun, Stream, drive_open
from loadtest.openai_retries import openai_retry_delay
from loadtest.workload import SHORT


class Service(BaseHTTPRequestHandler):
    """Echoes what it's sent; `/health` takes 0.3 s; "busy" is refused twice, "broken" loses its connection."""

    protocol_version = "HTTP/1.1"
    busy = 2

    def do_GET(self) -> None:
        time.sleep(0.3)
        self.answer(200, b"{}")

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        if b'"broken"' in sent:
            self.close_connection = True
        elif b'"busy"' in sent and Service.busy > 0:
            Service.busy -= 1
            self.answer(429, b"refused", {"Retry-After": "3", "X-Other": "x"})
        else:
            self.answer(200, sent)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(plan: OpenPlan) -> OpenRun:
    # On a thread of its own: the tests' own may have a running loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(drive_open, plan).result(timeout=30)


def test_requests_leave_when_due_whatever_others_wait_for() -> None:
    with service() as url:
        done = run(OpenPlan(url, "m", [Stream("slow", 40, 0, 0.5), Stream("fast", 100, 0.1, 0.5, SHORT, 7)]))
    slow, fast = done.of("slow"), done.of("fast")
    # Poisson counts, within what won't happen by chance.
    assert 5 <= len(slow) <= 45
    assert 15 <= len(fast) <= 80
    assert len(done.outcomes) == len(slow) + len(fast)
    assert {each.status for each in done.outcomes} == {200}
    # If each had waited for the one before, the last would have taken as many times 0.3 s as there are.
    assert all(0.29 <= each.seconds < 0.3 * len(slow) for each in slow)
    assert [each.number for each in fast] == list(range(7, 7 + len(fast)))
    assert orjson.loads(fast[0].body)["input"] == SHORT.text(7)
    # The loop's timers count whole milliseconds, so that a request may also leave half of one too early.
    assert all(0.1 <= each.due <= 0.5 and each.seconds > each.lag - 0.001 >= -0.001 for each in fast)
    assert [each.due for each in done.outcomes] == sorted(each.due for each in done.outcomes)


def test_moments_are_those_of_the_seed() -> None:
    stream = Stream("s", 50, 1, 3)
    moments = [stream.moments(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert moments[0] == moments[1] != moments[2]
    assert all(1 <= moment <= 3 for moment in moments[0])


def few_retries(status: int, headers: Mapping[str, str], tries: int) -> float | None:
    assert "x-other" not in headers
    return 0.01 if status != 200 and tries < 5 else None


@pytest.mark.parametrize("retrying", [True, False])
def test_a_caller_that_retries_counts_until_its_last_answer(retrying: bool) -> None:
    Service.busy = 2
    with service() as url:
        done = run(OpenPlan(url, "busy", [Stream("s", 30, 0, 0.5, SHORT, retrying=retrying)], retry_delay=few_retries))
    statuses = sorted(each.status for each in done.outcomes)
    if retrying:
        assert set(statuses) == {200}
        assert sum(each.tries for each in done.outcomes) == len(done.outcomes) + 2
        assert any(each.seconds > each.first_seconds for each in done.outcomes)
    else:
        assert statuses[-2:] == [429, 429]
        refused = next(each for each in done.outcomes if each.status == 429)
        assert refused.headers == {"retry-after": "3"}
        assert refused.body == b""


def test_a_lost_connection_is_no_answer() -> None:
    with service() as url:
        done = run(OpenPlan(url, "broken", [Stream("s", 30, 0, 0.3, SHORT)]))
    assert {each.status for each in done.outcomes} == {NO_ANSWER}


def test_retries_are_those_of_the_openai_client() -> None:
    assert openai_retry_delay(200, {}, 1) is None
    assert openai_retry_delay(400, {}, 1) is None
    assert openai_retry_delay(429, {"x-should-retry": "false"}, 1) is None
    assert openai_retry_delay(429, {"retry-after": "3"}, 1) == 3
    assert openai_retry_delay(429, {"retry-after": "3", "retry-after-ms": "250"}, 1) == 0.25
    assert openai_retry_delay(NO_ANSWER, {}, 1) is not None
    assert openai_retry_delay(429, {}, DEFAULT_MAX_RETRIES) is not None
    assert openai_retry_delay(429, {}, DEFAULT_MAX_RETRIES + 1) is None
