"""A second instance on the same machine: other ports, other settings, Ctrl-C, nothing left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serve_app.cluster.environment import run_directory
from tests.reference import assert_same, expected
from tests.running import RunningService
from tests.test_frameworks import CL100K, TEXTS, TIKTOKEN_CACHE, langchain

pytestmark = pytest.mark.cluster
LARGE = {"model": "demo", "input": [f"number {n} " + "word " * 60 for n in range(2048)]}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve_app.cli", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_beside_the_first_one(service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(TIKTOKEN_CACHE))
    log = tmp_path / "up.log"
    settings = ("token_ids=tiktoken:cl100k_base", f"tiktoken_file={CL100K}")
    with RunningService.start(log, *(part for pair in settings for part in ("--set", pair))) as second:
        # LangChain's default, OpenAI's token ids, gives the vectors of the texts under this setting.
        assert_same(langchain(second).embed_documents(TEXTS), expected(TEXTS))
        assert httpx.get(f"{service.url}/health").json() == {"status": "healthy"}
        first = command("status", "--port", str(second.port))
        assert (first.returncode, "healthy" in first.stdout, "embedserve/demo" in first.stdout) == (0, True, True)

        taken = command("up", "--port", str(second.port))
        assert taken.returncode == 1
        assert f"Port {second.port} is taken" in taken.stderr

        # Ctrl-C while a large request is being worked on: it's answered first.
        with ThreadPoolExecutor(1) as pool:
            large = pool.submit(httpx.post, f"{second.base_url}/embeddings", json=LARGE, timeout=120)
            time.sleep(1.0)
            assert not large.done()
            assert second.stop(signal.SIGINT, group=True) == 0
            assert large.result().status_code == 200
            assert len(large.result().json()["data"]) == len(LARGE["input"])
        assert second.leftovers() == []
        assert not run_directory(second.port).exists()
    text = log.read_text()
    assert "Embedding model loaded successfully: embedserve/demo" in text
    assert "Placement: CPU" in text
    assert "demo checkpoint" in text
    assert "Traceback" not in text
    assert httpx.get(f"{service.url}/health").json() == {"status": "healthy"}


def test_down_and_status_without_an_instance() -> None:
    assert command("status", "--port", "1").returncode == 1
    gone = command("down", "--port", "1")
    assert gone.returncode == 1
    assert "Nothing that `embedserve up` started runs on port 1" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "limits.max_inputs=0"), "limits.max_inputs"),
        (("--set", "colour=blue"), "colour"),
        (("--set", "nonsense"), "key=value"),
        (("--gateway-ports", "5-4"), "FIRST-LAST"),
        (("--haproxy-stats-port", "65536"), "--haproxy-stats-port"),
        (("--dashboard-port", "0"), "--dashboard-port"),
    ],
)
def test_settings_that_cannot_be_used(arguments: tuple[str, ...], message: str) -> None:
    refused = command("up", *arguments)
    assert refused.returncode != 0
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("token_ids=tiktoken:nonsense", "tiktoken encoding 'nonsense' can't be loaded"),
        ("auth.keys_file=nowhere.yaml", "nowhere.yaml can't be read"),
        ("cost.gpu=nonsense", "'nonsense' isn't in the price book"),
    ],
)
def test_what_gateways_would_fail_with_is_found_before_ray_starts(setting: str, message: str) -> None:
    from serve_app.cluster.instance import free_port

    failed = command("up", "--port", str(free_port()), "--set", setting)
    assert failed.returncode == 1
    assert message in failed.stdout + failed.stderr
    assert "Starting Ray" not in failed.stdout + failed.stderr


def test_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    from serve_app.cluster.instance import free_port

    failed = command("up", "--port", str(free_port()), "--model", str(tmp_path))
    assert failed.returncode == 1
    assert "model_type" in failed.stdout + failed.stderr
    assert "Stopping Ray" in failed.stdout + failed.stderr or "Could not serve" in failed.stdout + failed.stderr
