"""Serve's own ways, on a Ray cluster that somebody else started and without our environment list."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from serve_app.api.http import PIECE_BYTES
from serve_app.cluster.instance import free_port
from tests.reference import assert_same, expected

pytestmark = pytest.mark.cluster
BIN = Path(sys.executable).parent
CONFIG = Path(__file__).parents[1] / "deploy" / "serve.yaml"
TEXTS = ["The capital of China is Beijing.", "重力是一种力。"]


def run(*command: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A plain Ray head node. Stopped process by process, since `ray stop` would stop every Ray on the machine."""
    port, dashboard, client = free_port(), free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    # Its own directory, so that no other Ray on this machine takes this cluster for its own; short, for socket paths.
    directory = tempfile.mkdtemp(prefix="ray-")
    env |= {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": directory}
    head = subprocess.Popen(
        [
            *(BIN / "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"),
            *(f"--ray-client-server-port={client}", "--num-cpus=4", "--object-store-memory=200000000"),
        ],
        env=env,
        stdout=(tmp_path_factory.mktemp("ray") / "head.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for_dashboard(dashboard, head)
        yield env
    finally:
        processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        head.terminate()
        _, alive = psutil.wait_procs(processes, timeout=5)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def wait_for_dashboard(port: int, head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert head.poll() is None
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/version").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError("Ray's dashboard never answered")


def embed(url: str) -> list[list[float]]:
    reply = httpx.post(f"{url}/v1/embeddings", json={"model": "demo", "input": TEXTS}, timeout=60)
    assert reply.status_code == 200, reply.text
    return [item["embedding"] for item in reply.json()["data"]]


def test_serve_deploy_then_serve_run(environment: dict[str, str], tmp_path: Path) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    port = config["http_options"]["port"] = free_port()
    config["applications"][0]["args"] |= {"replicas": 2, "gateways": 2, "num_cpus": 0.5, "gateway_num_cpus": 0.5}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{port}"

    run("serve", "deploy", str(file), env=environment)
    wait_until_healthy(url)
    assert_same(embed(url), expected(TEXTS))
    long = httpx.post(f"{url}/embed_all", json={"inputs": "the " * 4000}, timeout=60)
    assert long.status_code == 200
    assert len(long.content) > PIECE_BYTES  # it comes in several pieces, which Serve pickles here
    assert len(long.json()[0]) > 4000

    # The same application by its builder, with arguments as text and nested by a dot; it takes over the route.
    out = run(
        *("serve", "run", "--non-blocking", "--name=embedserve", "serve_app:build", "model=embedserve/demo"),
        *("gateways=1", "num_cpus=0.5", "limits.max_inputs=1"),
        env=environment,
    )
    assert "embedserve env" in out  # the warning, with what to do about it
    assert "RAY_SERVE_ENABLE_HA_PROXY" in out
    wait_until_healthy(url)
    refused = httpx.post(f"{url}/v1/embeddings", json={"model": "demo", "input": TEXTS}, timeout=60)
    assert refused.status_code == 400
    assert json.loads(refused.text)["error"]["param"] == "input"


def wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + 300
    last = ""
    while time.monotonic() < deadline:
        try:
            reply = httpx.get(f"{url}/health", timeout=5)
            last = f"{reply.status_code} {reply.text}"
            if reply.status_code == 200:
                return
        except httpx.HTTPError as error:
            last = repr(error)
        time.sleep(0.2)
    raise AssertionError(f"never healthy: {last}")
