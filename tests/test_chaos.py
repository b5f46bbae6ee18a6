"""The chaos suite at its shortest, each kind of fault at least once; and its own judgement, with nothing started."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.chaos import verdict
from loadtest.chaos_clients import Client, Exchange, Outcome, check
from loadtest.chaos_cluster import wait_until
from loadtest.chaos_faults import Fault, Kind, schedule
from loadtest.chaos_report import broken, late, service_back, summarize, tables
from loadtest.soak_traffic import References
from serve_app.cluster.processes import gone

ROOT = Path(__file__).parents[1]
RUN_SECONDS = 1200.0  # a bound against hanging; it takes two to six minutes
# With fewer requests, what was killed is back sooner on two busy cores.
OPTIONS = "--minutes 0 --seed 1 --no-clock --pause 0.3"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Exit code, output and report of the shortest run."""
    folder = tmp_path_factory.mktemp("chaos")
    out, log = folder / "chaos.json", folder / "chaos.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.chaos", *OPTIONS.split(), "--out", out],
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(RUN_SECONDS)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
    yield code, log.read_text(errors="replace"), json.loads(out.read_text()) if out.exists() else {}


@pytest.mark.cluster
def test_every_promise_is_kept_while_parts_die(run: tuple[int, str, dict[str, Any]]) -> None:
    code, log, report = run
    assert code == 0, log[-6000:]
    assert report["wrong"] == report["hang"] == 0
    assert report["sent"] > 0
    for kind in Kind:
        assert report["kinds"][kind]["injected"] == report["kinds"][kind]["proven"] > 0


@pytest.mark.cluster
def test_without_retries_in_the_dispatcher_the_same_judgement_fails(run: tuple[int, str, dict[str, Any]]) -> None:
    _, log, report = run
    without = report["without_retries"]
    assert without["broken"], log[-6000:]
    errors = without["kinds"][Kind.EMBEDDER]["errors"]
    assert any("The replica died, and nothing is sent twice." in line for line in errors)


@pytest.mark.cluster
def test_nothing_of_the_cluster_is_left(run: tuple[int, str, dict[str, Any]]) -> None:
    _, _, report = run
    assert report["left_behind"] == []
    for pid, created in report["processes"]:
        assert not psutil.pid_exists(pid) or abs(psutil.Process(pid).create_time() - created) > 1
    assert report["processes"]


def fault(kind: Kind, begin: float, end: float, *, proven: bool = True) -> Fault:
    return Fault(kind, "worker 1", [1], begin, end, proven)


def exchange(begin: float, end: float, outcome: Outcome = Outcome.OK, **other: Any) -> Exchange:
    return Exchange(**({"client": Client.NONE, "node": "head"} | other), begin=begin, end=end, outcome=outcome)


FAULTS = [fault(kind, 10.0 * number, 10.0 * number + 5) for number, kind in enumerate(Kind, start=1)]
BEGIN = {each.kind: each.begin for each in FAULTS}


def report_of(*exchanges: Exchange, faults: list[Fault] = FAULTS) -> dict[str, Any]:
    return summarize(exchanges, exchanges, faults)


def test_a_schedule_has_every_kind_in_each_round_and_follows_from_the_seed() -> None:
    def first(seed: int) -> list[Kind]:
        kinds = schedule(random.Random(seed))
        return [next(kinds) for _ in range(3 * len(Kind))]

    for start in range(0, 3 * len(Kind), len(Kind)):
        assert set(first(1)[start : start + len(Kind)]) == set(Kind)
    assert first(1) == first(1) != first(2)


def test_a_request_belongs_to_the_fault_it_met() -> None:
    report = report_of(exchange(1, 2), exchange(9, 11), exchange(12, 13, Outcome.ERROR), exchange(19, 19.5))
    assert report["sent"] == 4
    assert report["kinds"][Kind.EMBEDDER]["clients"][Client.NONE] == {"sent": 2, "ok": 1}
    assert report["kinds"][Kind.PAUSE]["clients"][Client.NONE] == {"sent": 0, "ok": 0}
    assert report["errors_without_fault"] == {}
    assert report["kinds"][Kind.EMBEDDER]["errors"] == {"error, no retries at another node: ": 1}


def test_success_breaks_no_promise() -> None:
    assert broken(report_of(*[exchange(each.begin + 1, each.begin + 2) for each in FAULTS])) == []


@pytest.mark.parametrize("outcome", [Outcome.WRONG, Outcome.HANG])
def test_a_wrong_reply_and_a_hang_are_never_allowed(outcome: Outcome) -> None:
    for client in Client:
        assert any("wrong" in line for line in broken(report_of(exchange(1, 2, outcome, client=client))))


def test_an_error_without_a_fault_is_never_allowed() -> None:
    assert broken(report_of(exchange(1, 2, Outcome.ERROR))) == ["1 errors without a fault"]


@pytest.mark.parametrize("kind", [Kind.EMBEDDER, Kind.PAUSE, Kind.PAUSE_KILL, Kind.CONTROLLER])
def test_these_faults_cost_no_request_even_without_retries(kind: Kind) -> None:
    ok = [exchange(BEGIN[kind], BEGIN[kind] + 1)] * 5000
    assert broken(report_of(*ok)) == []
    assert len(broken(report_of(*ok, exchange(BEGIN[kind], BEGIN[kind] + 1, Outcome.ERROR)))) == 1


def test_a_gateway_kill_may_cost_one_request_in_a_thousand_without_retries() -> None:
    at = BEGIN[Kind.GATEWAY]
    ok, error = exchange(at, at + 1), exchange(at, at + 1, Outcome.ERROR)
    assert broken(report_of(*[ok] * 1998, *[error] * 2)) == []
    assert broken(report_of(*[ok] * 1996, *[error] * 3)) == ["Gateway killed: 3 of 1999 failed (no retries)"]
    assert broken(report_of(ok, error)) == []  # a short run sends few
    assert len(broken(report_of(ok, error, error))) == 1
    assert len(broken(report_of(exchange(at, at + 1, Outcome.ERROR, client=Client.DEFAULT)))) == 1


@pytest.mark.parametrize("kind", [Kind.HAPROXY, Kind.NODE])
def test_a_lost_port_may_cost_its_own_clients_but_no_roaming_one_and_no_other_node(kind: Kind) -> None:
    at = BEGIN[kind]
    for client in (Client.NONE, Client.DEFAULT, Client.PATIENT):
        assert broken(report_of(exchange(at, at + 1, Outcome.ERROR, client=client, node="worker 1"))) == []
        elsewhere = exchange(at, at + 1, Outcome.ERROR, client=client, node="head")
        assert len(broken(report_of(elsewhere, elsewhere))) == 1
    assert len(broken(report_of(exchange(at, at + 1, Outcome.ERROR, client=Client.ROAMING, node="worker 1")))) == 1


def test_a_haproxy_is_back_before_a_patient_client_gives_up() -> None:
    at = BEGIN[Kind.HAPROXY]
    assert late(report_of(exchange(at, at + 4, node="worker 1"))) == []
    gone = [exchange(at, at + 4, Outcome.ERROR, node="worker 1"), exchange(at + 4, at + 6, node="worker 1")]
    assert late(report_of(*gone)) == ["HAProxy killed: service back after up to 6.0 s, 5 s wanted"]
    given_up = exchange(at, at + 1, Outcome.ERROR, client=Client.PATIENT, node="worker 1")
    assert late(report_of(given_up, exchange(at + 1, at + 2, node="worker 1"))) == [
        "HAProxy killed: 1 of 1 failed (10 s)"
    ]


def test_a_fault_that_never_was_or_isn_t_proven_breaks_the_promise() -> None:
    assert [line for line in broken(report_of(faults=FAULTS[1:])) if "Embedder killed: 0 proven of 0" in line]
    unproven = [fault(Kind.EMBEDDER, 10, 15, proven=False), *FAULTS[1:]]
    assert [line for line in broken(report_of(faults=unproven)) if "Embedder killed: 0 proven of 1" in line]


def test_service_is_back_with_the_first_answer_after_the_last_error_of_the_port() -> None:
    one = fault(Kind.HAPROXY, 10, 20)
    worker = [
        exchange(10, 11, Outcome.ERROR, node="worker 1"),
        exchange(12, 12.5, Outcome.ERROR, node="worker 1"),
        exchange(13, 13.5, node="worker 1"),
        exchange(14, 14.5, node="worker 1"),
    ]
    assert service_back(one, [*worker, exchange(10, 11)]) == 3.5
    assert service_back(one, [exchange(10, 11)]) == 0.0


def test_the_table_has_a_row_for_each_kind() -> None:
    text = tables(report_of(*[exchange(each.begin + 1, each.begin + 2) for each in FAULTS]))
    assert all(kind.value in text for kind in Kind)


def test_the_run_fails_if_the_application_without_retries_keeps_every_promise() -> None:
    good = {"broken": [], "late": [], "left_behind": [], "without_retries": {"broken": ["Embedder killed: 1 of 9"]}}
    assert verdict(good) == []
    for bad in (
        {"without_retries": {"broken": []}},
        {"left_behind": ["process 7"]},
        {"broken": ["x"]},
        {"late": ["x"]},
    ):
        assert len(verdict(good | bad)) == 1
    assert verdict(good | {"late": ["x"]}, clock=False) == []


def test_what_a_killed_run_leaves_is_reaped() -> None:
    script = """
import os, psutil, signal, subprocess
from loadtest.chaos_reaper import Reaper
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
child.send_signal(signal.SIGSTOP)
Reaper().watch(psutil.Process(child.pid))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, stdout=subprocess.PIPE, timeout=60)
    assert run.returncode == -signal.SIGKILL
    try:
        child = psutil.Process(int(run.stdout))
    except psutil.NoSuchProcess:
        return
    wait_until(lambda: gone(child), 30, "the stopped process is gone")


def test_replies_are_checked_for_vectors_order_and_tokens() -> None:
    import numpy as np

    known = References(["a", "b"], np.eye(2, 4, dtype=np.float32), [3, 4])
    right = known.vectors.tolist()
    assert check(known, [0, 1], right, 7) == (Outcome.OK, "")
    assert check(known, [1, 0], right, 7)[0] is Outcome.WRONG
    assert check(known, [0, 1], right, 8)[0] is Outcome.WRONG
    assert check(known, [0, 1], right[:1], 7)[0] is Outcome.WRONG
    assert check(known, [0, 1], [right[0], right[1][:2]], 7)[0] is Outcome.WRONG
    assert check(known, [0], [[float("nan")] * 4], 3)[0] is Outcome.WRONG
