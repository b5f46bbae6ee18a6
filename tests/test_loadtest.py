"""The benchmarks' own arithmetic: texts, statistics, tables, verdicts. Nothing is started."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import orjson
import pytest

from loadtest.bench_http import goal, other_target
from loadtest.bench_queries import Queries
from loadtest.http_client import Address, Connection
from loadtest.load_client import Plan, Round, drive
from loadtest.replies import WrongReplyError, vectors_of
from loadtest.report import figure, percentile, slope_per_hour, spread, table
from loadtest.rounds import round_of, summarize
from loadtest.running import group_of
from loadtest.soak_inside import busy, leaks
from loadtest.soak_watch import Series
from loadtest.workload import MEDIUM, NUMBER_WORDS, SHORT, Workload, body, one_token_words, tokenizer


@pytest.mark.parametrize("workload", [SHORT, MEDIUM])
def test_every_text_is_distinct_and_within_its_token_bounds(workload: Workload) -> None:
    numbers = [*range(3000), 2_000_000, len(one_token_words()) ** NUMBER_WORDS - 1]
    texts = workload.texts(numbers)
    assert len(set(texts)) == len(texts)
    lengths = {len(ids) for ids in tokenizer().encode_batch(texts)}
    assert lengths == set(range(workload.shortest, workload.longest + 1))


def test_neighbouring_texts_share_no_prefix() -> None:
    firsts = [text.split()[0] for text in SHORT.texts(range(50))]
    assert len(set(firsts)) == 50


def test_texts_follow_from_the_seed() -> None:
    again = Workload("again", SHORT.shortest, SHORT.longest)
    other = Workload("other", SHORT.shortest, SHORT.longest, seed=1)
    assert again.texts(range(20)) == SHORT.texts(range(20))
    assert other.texts(range(20)) != SHORT.texts(range(20))


@pytest.mark.parametrize("number", [-1, 10**15])
def test_a_number_that_would_repeat_a_text_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        SHORT.text(number)


def test_one_text_travels_as_a_string_and_several_as_a_list() -> None:
    assert orjson.loads(body("m", ["a"])) == {"model": "m", "input": "a", "encoding_format": "base64"}
    assert orjson.loads(body("m", ["a", "b"], "float"))["input"] == ["a", "b"]


def test_spread_and_percentile() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([5.0], 50) == 5.0
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_slope_per_hour() -> None:
    assert slope_per_hour([0, 10, 20], [100.0, 101.0, 102.0]) == pytest.approx(360.0)
    assert slope_per_hour([0, 10, 20], [7.0, 7.0, 7.0]) == 0.0
    assert slope_per_hour([5], [1.0]) == 0.0


def test_table_puts_names_left_and_figures_right() -> None:
    lines = table(["name", "rate"], [["a", "1.0"], ["long name", "10.0"]]).splitlines()
    assert lines == ["name       rate", "---------  ----", "a           1.0", "long name  10.0"]
    assert figure({"median": 1234.56, "lowest": 1.0, "highest": 2000.0}) == "1,234.6 (1.0-2,000.0)"


def test_goals_have_one_bound_each() -> None:
    assert goal("rate", 8.0, at_least=8)["met"]
    assert not goal("rate", 7.9, at_least=8)["met"]
    assert goal("p99", 0.25, at_most=0.25)["met"]
    assert not goal("p99", 0.26, at_most=0.25)["met"]


def test_a_round_and_its_summary() -> None:
    fast = round_of(Round(2.0, [0.01] * 98 + [0.05] * 2, [], 120, 120, [], {"gateway": 0.012}), 1.0)
    slow = round_of(Round(2.0, [0.1] * 10, [], 12, 12, [], {}), 1.0)
    assert fast["requests_per_second"] == 50.0
    assert (fast["p50_ms"], fast["p99_ms"]) == (10.0, 50.0)
    assert fast["cpu_us_per_request"] == {"gateway": pytest.approx(100.0)}
    ours, theirs = summarize({("short", "a"): [fast, fast], ("short", "b"): [slow, slow]}, "a")
    assert ours["ours_is"]["requests_per_second"]["median"] == 1.0
    assert theirs["ours_is"]["requests_per_second"]["median"] == 10.0
    assert theirs["ours_is"]["p99_ms"]["median"] == pytest.approx(0.5)


def test_growth_is_counted_after_the_warm_up() -> None:
    series = Series("gateway", 1)
    for moment, value in [(0, 10.0), (60, 100.0), (120, 101.0), (180, 102.0)]:
        series.add(moment, {"fds": value})
    found = series.summary(warm_seconds=60)
    assert found["samples"] == 3
    assert found["fds"] == {"first": 100.0, "last": 102.0, "highest": 102.0, "per_hour": pytest.approx(60.0)}


def test_leaks_are_what_replicas_at_rest_have_more_of() -> None:
    before = {pid: {"tasks": 20, "object_references": 1, "file_descriptors": 90} for pid in (1, 2)}
    after = {
        1: {"tasks": 22, "object_references": 1, "file_descriptors": 100},
        2: {"tasks": 90, "object_references": 30, "file_descriptors": 200},
        3: {"tasks": 500, "object_references": 500, "file_descriptors": 500},
    }
    assert leaks(before, after) == [
        "pid 2: tasks 90, 20 before",
        "pid 2: object_references 30, 1 before",
        "pid 2: file_descriptors 200, 90 before",
    ]
    assert busy({1: {"queued_tokens": 0, "in_flight_tokens": 3}})
    assert not busy({1: {"queued_tokens": 0, "in_flight_tokens": 0}, 2: {"outstanding_tokens": 0}})


@pytest.mark.parametrize(
    ("name", "command", "group"),
    [
        ("ray::ServeRepli", "ray::ServeReplica:embedserve:Gateway", "gateway"),
        ("ray::ServeRepli", "ray::ServeReplica:naive:Model.embed", "model"),
        ("ray::ProxyActor", "ray::ProxyActor", "proxy"),
        ("haproxy", "/x/haproxy -f /tmp/embedserve-1/haproxy/haproxy.cfg", "haproxy"),
        ("raylet", "/x/raylet --node_ip=1", "ray"),
    ],
)
def test_processes_are_told_apart(name: str, command: str, group: str) -> None:
    assert group_of(name, command) == group


def test_other_targets_and_addresses() -> None:
    target = other_target("vllm=http://127.0.0.1:8123/v1,org/model")
    assert (target.name, target.url, target.model) == ("vllm", "http://127.0.0.1:8123/v1", "org/model")
    assert Address.of(target.url) == ("127.0.0.1", 8123, "", False)
    for wrong in ("vllm", "vllm=http://x", "=http://x,m", "vllm=x:80,m"):
        with pytest.raises(argparse.ArgumentTypeError):
            other_target(wrong)


def reply_of(vectors: np.ndarray, tokens: int = 3, first: int = 0) -> bytes:
    data = [
        {"index": first + i, "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()}
        for i, row in enumerate(vectors)
    ]
    return orjson.dumps({"data": data, "usage": {"prompt_tokens": tokens}})


def test_replies_are_read_in_both_formats() -> None:
    unit = np.eye(2, 4, dtype=np.float32)
    vectors, tokens = vectors_of(reply_of(unit), 2, 4)
    assert (vectors == unit).all()
    assert tokens == 3
    value = orjson.loads(reply_of(unit))
    value["data"][0]["embedding"] = [1, 0, 0, 0]
    assert (vectors_of(orjson.dumps(value), 2, 4)[0] == unit).all()


@pytest.mark.parametrize(
    "reply",
    [
        b"not json",
        b'{"data": []}',
        reply_of(np.eye(1, 4)),  # one vector too few
        reply_of(np.eye(2, 4), first=1),
        reply_of(np.eye(2, 5)),
        reply_of(np.eye(2, 4) * 2),
        reply_of(np.full((2, 4), np.nan)),
    ],
)
def test_wrong_replies_are_noticed(reply: bytes) -> None:
    with pytest.raises(WrongReplyError):
        vectors_of(reply, 2, 4)


class Echo(BaseHTTPRequestHandler):
    """Answers what it was sent; 500 to a model named "broken"."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(500 if b"broken" in sent else 200)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_connection_is_used_again() -> None:
    with echo() as url, Connection(Address.of(url), timeout=5) as connection:
        for text in ("one", "two"):
            assert connection.exchange(Address.of(url).frame(text.encode())) == (200, text.encode())


@pytest.mark.parametrize(("model", "faulty"), [("fine", False), ("broken", True)])
def test_the_load_generator_counts_and_notices_failures(model: str, faulty: bool) -> None:
    with echo() as url, ThreadPoolExecutor(1) as thread:
        plan = Plan(url, model, SHORT, 100, 3, warm_seconds=0.05, seconds=0.2, sample_every=2)
        done = thread.submit(drive, plan).result(timeout=60)
    assert done.requests >= len(done.latencies) > 0
    assert done.seconds == pytest.approx(0.2)
    assert bool(done.errors) is faulty
    number, reply = done.samples[0]
    assert orjson.loads(reply)["input"] == SHORT.text(number)


def test_queries_have_other_words_in_the_same_lengths() -> None:
    queries = Queries(tokenizer(), one_token_words(), instructions=3, queries=40, seed=1)
    templates = [tokens - 1 for tokens in queries.tokens(queries.instructions)]
    assert all(25 <= tokens <= 30 for tokens in templates)
    first, second = queries.draw(), queries.draw()
    assert queries.tokens(first) == queries.tokens(second)
    assert not set(first) & set(second)
    used = set()
    for text, tokens in zip(first, queries.tokens(first), strict=True):
        [which] = [i for i, template in enumerate(queries.instructions) if text.startswith(template)]
        assert 10 <= tokens - 1 - templates[which] <= 20
        used.add(which)
    assert used == {0, 1, 2}
