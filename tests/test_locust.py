"""The Locust files: shapes, exact percentiles, and real runs against a server in this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from loadtest.locust_exact import Exact
from loadtest.locust_shapes import DEFAULT_SECONDS, SHAPES, users_at
from tests.hosted import Hosted

ROOT = Path(__file__).parents[1]


def test_shapes_scale_to_users_and_time() -> None:
    def course(shape: str) -> list[int | None]:
        return [users_at(shape, second, 100.0, 50) for second in (0, 3, 19, 21, 41, 59, 61, 81, 97, 100)]

    assert course("steady") == [50] * 9 + [None]
    assert course("step") == [10, 10, 10, 20, 30, 30, 40, 50, 50, None]
    assert course("spike") == [10, 10, 10, 10, 50, 50, 10, 10, 10, None]
    assert course("soak") == [2, 30, 50, 50, 50, 50, 50, 50, 30, None]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_without_a_time_to_run(shape: str) -> None:
    goes_on = shape in ("steady", "soak")
    assert (users_at(shape, DEFAULT_SECONDS + 1, None, 3) is not None) == goes_on
    assert users_at(shape, 1.0, None, 1) == 1


def test_percentiles_are_exact_and_come_together_from_workers() -> None:
    workers, master = [Exact(), Exact()], Exact()
    for number, worker in enumerate(workers):
        for i in range(500):
            worker.on_request(1000.25 + 2 * i + number, None, {"tokens": 3})
        worker.on_request(5.0, RuntimeError("no"), {"tokens": 0})
        data: dict[str, object] = {}
        worker.on_report_to_master("w", data)
        master.on_worker_report("w", data)
        worker.on_report_to_master("w", data)  # what was handed over once isn't again
        master.on_worker_report("w", data)
    found = master.figures()
    assert (found["answered"], found["failed"], found["tokens"]) == (1000, 2, 3000)
    assert (found["p50_ms"], found["p99_ms"], found["p100_ms"]) == (1499.25, 1989.25, 1999.25)
    assert Exact().figures()["p99_ms"] is None


def locust(url: str, out: Path, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
    more = ["--host", url, "-u", "3", "-r", "10", "-t", "2s", "--exact-json", str(out), *arguments]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, float] = orjson.loads(out.read_bytes())
    return found


@pytest.mark.parametrize("arguments", [(), ("--rate", "60", "--workload", "query"), ("--processes", "2")])
def test_a_run_counts_what_the_server_counts(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with Hosted.running(delay=0.002) as hosted:
        found = locust(f"{hosted.url}/v1", tmp_path / "exact.json", *arguments)
    assert found["failed"] == 0
    assert found["answered"] == hosted.answered > 10
    assert found["tokens"] == hosted.tokens
    texts = [body["input"] for body in hosted.bodies]
    assert len(set(texts)) == len(texts)


def test_in_open_loop_times_count_from_when_a_request_was_due(tmp_path: Path) -> None:
    """One server thread that stands still for a second delays the requests that come meanwhile, and Locust says so of each of them."""
    stalled = []

    def stall(body: dict[str, object]) -> None:
        if len(hosted.bodies) >= 20 and not stalled:
            stalled.append(True)
            hosted.gate.acquire()
            hosted.release_after(1.0)
        with hosted.gate:
            pass

    with Hosted.running(trouble=stall) as hosted:
        found = locust(hosted.url, tmp_path / "exact.json", "--rate", "60", "--workload", "query")
    assert found["p99_ms"] > 800
    # Closed loop would show three slow requests of its three users, 5 % at most; here it's what was due in that second.
    assert found["p50_ms"] < found["p95_ms"]
    assert found["p95_ms"] > 500


def test_a_wrong_reply_is_a_failure(tmp_path: Path) -> None:
    wrong = orjson.dumps({"data": [], "usage": {"prompt_tokens": 1}})
    with Hosted.running(trouble=lambda body: (200, wrong, {})) as hosted:
        command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
        more = ["--host", hosted.url, "-u", "1", "-r", "1", "-t", "1s", "--exact-json", str(tmp_path / "exact.json")]
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "wrong reply" in done.stdout + done.stderr
    assert orjson.loads((tmp_path / "exact.json").read_bytes())["failed"] >= 1
