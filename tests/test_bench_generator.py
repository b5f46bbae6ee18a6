"""What the load generator sends, waits for and writes down, against a server in this process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import orjson
import pytest

from serve_app.bench.address import Address
from serve_app.bench.dialects import DIALECTS, ReplyError
from serve_app.bench.figures import figures
from serve_app.bench.generator import Plan, drive
from serve_app.bench.load import Load
from serve_app.bench.record import NO_ANSWER, STAGES, TIMED_OUT, Record
from serve_app.bench.target import Target
from serve_app.bench.workloads import Content
from tests.hosted import Hosted

KEY = "sk-test-0123456789"


def target_of(hosted: Hosted, dialect: str = "openai", **fields: Any) -> Target:
    return Target("one", hosted.url, DIALECTS[dialect], "words-1", **fields)


def plan_for(target: Target, **fields: Any) -> Plan:
    plan = Plan(target, "query", Load(callers=3), first=0, prepare=20, warm_seconds=0.0, seconds=0.3, timeout=5.0)
    return replace(plan, **fields)


def run(plan: Plan) -> Record:
    """In a thread: the tests have an event loop of their own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(drive, plan).result(timeout=60)


@pytest.mark.parametrize("dialect", ["openai", "cohere"])
def test_what_it_counts_is_what_the_server_counted(dialect: str) -> None:
    with Hosted.running(key=KEY, stages=True, delay=0.002) as hosted:
        record = run(plan_for(target_of(hosted, dialect, key=KEY), prepare=5))  # more are made on the way
    assert record.due.size == hosted.answered > 5
    assert int(record.tokens.sum()) == hosted.tokens
    assert (record.status == 200).all()
    assert record.checked > 1
    assert record.wrong == []
    assert (record.stages == [1.0, 0.5, 2.0, 0.25]).all()
    assert (record.seconds >= 0.002).all()
    assert (np.diff(record.due) >= 0).all()


def test_a_request_with_more_inputs_than_the_api_takes_goes_in_parts_and_ends_with_the_last() -> None:
    with Hosted.running() as hosted:
        record = run(
            plan_for(target_of(hosted, "cohere"), workload="bulk", load=Load(callers=1), prepare=1, seconds=0.01)
        )
    assert record.inputs.tolist() == [2048]
    assert record.status.tolist() == [200]
    assert sorted(len(body["texts"]) for body in hosted.bodies) == [32] + [96] * 21
    assert int(record.tokens[0]) == hosted.tokens
    assert record.wrong == []


def test_in_open_loop_times_count_from_the_moment_fixed_beforehand() -> None:
    number = count(1)

    def stall(body: dict[str, Any]) -> None:
        if next(number) == 20:
            hosted.gate.acquire()
            hosted.release_after(0.6)
        with hosted.gate:
            pass

    with Hosted.running(trouble=stall) as hosted:
        record = run(plan_for(target_of(hosted), load=Load(rate=100.0), seconds=1.2))
    ends = np.sort(record.due + record.seconds)
    stalled = np.diff(ends).argmax()  # between two answers, the longest time without one
    # Whatever was due in the stall waited for the rest of it, all of it.
    waited = (record.due > ends[stalled]) & (record.due < ends[stalled + 1])
    assert waited.sum() > 10
    assert (record.due + record.seconds)[waited].min() >= ends[stalled + 1]
    assert figures(record).p99_ms > 400  # type: ignore[operator]


def test_all_targets_are_asked_at_the_same_moments() -> None:
    with Hosted.running() as hosted:
        plan = plan_for(target_of(hosted), load=Load(rate=60.0), first=700)
        records = [run(plan), run(replace(plan, salt=1)), run(replace(plan, first=800))]
    assert (records[0].due == records[1].due).all()
    assert not np.array_equal(records[0].due, records[2].due)
    texts = [body["input"] for body in hosted.bodies]
    assert len(set(texts)) == len(texts)


def test_a_caller_who_is_told_when_to_come_back_waits() -> None:
    with Hosted.running(trouble=lambda body: (429, b"later", {"retry-after": "30"})) as hosted:
        record = run(plan_for(target_of(hosted)))
    assert record.status.tolist() == [429] * 3  # one of each caller
    assert figures(record).error_share == 1.0
    assert record.messages == {"status 429: later": 3}


def test_a_key_is_in_no_message() -> None:
    echo = f"You sent {KEY}, which is wrong".encode()
    with Hosted.running(trouble=lambda body: (500, echo, {})) as hosted:
        assert set(run(plan_for(target_of(hosted, key=KEY))).messages) == {"status 500: You sent …, which is wrong"}
    part = b"Incorrect API key provided: sk-te***6789"
    with Hosted.running(trouble=lambda body: (401, part, {})) as hosted:
        assert set(run(plan_for(target_of(hosted, key=KEY))).messages) == {"status 401"}
    assert KEY not in repr(target_of(hosted, key=KEY))
    assert KEY not in repr(target_of(hosted, key=KEY).described())


def test_no_answer_and_no_answer_in_time() -> None:
    with Hosted.running(delay=0.5) as hosted:
        late = run(plan_for(target_of(hosted), timeout=0.1, seconds=0.05))
    assert set(late.status.tolist()) == {TIMED_OUT}
    assert (late.seconds > 0.098).all()  # the loop counts in milliseconds
    gone = run(plan_for(target_of(hosted), seconds=0.05))  # nobody listens there now
    assert set(gone.status.tolist()) == {NO_ANSWER}
    assert figures(gone).statuses == {"no answer": gone.due.size}
    assert figures(gone).p50_ms is None


def test_wrong_replies_are_noticed_among_those_read_whole() -> None:
    reply = orjson.dumps({"data": [{"index": 0, "embedding": [0.0, 0.0]}], "usage": {"prompt_tokens": 3}})
    with Hosted.running(trouble=lambda body: (200, reply, {})) as hosted:
        record = run(plan_for(target_of(hosted)))
    assert len(record.wrong) == record.checked > 0
    assert record.wrong[0] == "a vector of nothing but zeros"


def test_bodies_are_as_the_apis_want_them() -> None:
    query, documents = Content(["a"], query=True), Content(["a", "b"])
    openai, cohere = DIALECTS["openai"], DIALECTS["cohere"]
    assert [orjson.loads(body) for body in openai.bodies("m", query)] == [
        {"model": "m", "input": "a", "encoding_format": "base64"}
    ]
    assert orjson.loads(openai.bodies("m", documents)[0])["input"] == ["a", "b"]
    assert [orjson.loads(body) for body in cohere.bodies("m", query)] == [
        {"model": "m", "input_type": "search_query", "texts": ["a"], "embedding_types": ["float"], "truncate": "NONE"}
    ]
    assert orjson.loads(cohere.bodies("m", documents)[0])["input_type"] == "search_document"


@pytest.mark.parametrize(
    ("dialect", "reply", "why"),
    [
        ("openai", b"nonsense", "not a reply of this API"),
        ("openai", b'{"data": []}', "1 inputs, 0 vectors"),
        ("openai", b'{"data": [{"index": 1, "embedding": [1.0]}]}', "out of order"),
        ("openai", b'{"data": [{"index": 0, "embedding": []}]}', r"vectors of \[0\] numbers"),
        ("openai", b'{"data": [{"index": 0, "embedding": "AADAfw=="}]}', "isn't finite"),
        ("cohere", b'{"embeddings": [[1.0]]}', "not a reply of this API"),
        ("cohere", b'{"embeddings": {"float": [[1.0], [2.0]]}}', "1 inputs, 2 vectors"),
    ],
)
def test_replies_that_are_not_what_was_asked_for(dialect: str, reply: bytes, why: str) -> None:
    with pytest.raises(ReplyError, match=why):
        DIALECTS[dialect].vectors(reply, 1)


def test_token_counts_are_found_wherever_they_stand() -> None:
    long = b" " * 10_000
    assert DIALECTS["openai"].tokens(b'{"usage": {"prompt_tokens": 12, "total_tokens": 12}}' + long) == 12
    assert DIALECTS["openai"].tokens(long + b'"prompt_tokens":7}') == 7
    assert DIALECTS["cohere"].tokens(b'{"meta":{"billed_units":{"input_tokens":9}}}') == 9
    assert DIALECTS["openai"].tokens(b"{}") == 0


def test_addresses() -> None:
    assert Address.of("https://api.cohere.com/v2") == ("api.cohere.com", 443, "", True)
    assert Address.of("http://[::1]:8000/base/v1/") == ("::1", 8000, "/base", False)
    assert Address.of("http://[::1]:8000").authority == "[::1]:8000"
    request = Address.of("https://x/base").frame(b"{}", "/v2/embed", {"authorization": "Bearer k"})
    assert request.startswith(b"POST /base/v2/embed HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n")
    assert request.endswith(b"content-length: 2\r\n\r\n{}")
    assert Address.of("https://x").context is not None
    assert Address.of("http://x").context is None
    for wrong in ("ftp://x", "http://user:secret@x", "http://x?key=1"):
        with pytest.raises(ValueError, match="URL") as caught:
            Address.of(wrong)
        assert "secret" not in str(caught.value)


def test_stage_names_are_the_services_own() -> None:
    from serve_app.types import Stage

    assert tuple(stage.value for stage in Stage) == STAGES
