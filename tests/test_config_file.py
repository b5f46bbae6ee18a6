"""A Serve config file, looked over before it is deployed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.cluster.config_file import problems

SHIPPED = Path(__file__).parents[1] / "deploy" / "serve.yaml"
GOOD = """
applications:
  - import_path: somebody.else:app
    args: {anything: goes}
  - name: embedserve
    import_path: serve_app:build
    args: {replicas: 2, limits: {max_inputs: 7}}
    deployments:
      - name: Gateway
        user_config: {limits.max_body_bytes: 4096, admission: {max_wait_seconds: 5}}
      - name: Embedder
        num_replicas: 3
"""


def test_the_shipped_one_and_a_full_one_are_good() -> None:
    assert problems(SHIPPED.read_bytes()) == []
    assert problems(GOOD.encode()) == []


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("replicas: 2", "replicas: none", "args: replicas: "),
        ("replicas: 2", "cost.gpu: h300", "args: cost: 'h300' isn't in the price book"),
        ("max_wait_seconds: 5", "max_wait_seconds: 0", "user_config of Gateway: admission.max_wait_seconds: "),
        ("num_replicas: 3", "user_config: {limits: {max_inputs: 1}}", "user_config of Embedder: 'limits' isn't"),
        ("name: Embedder", "name: Embeder", "there is no Embeder, only Gateway and Embedder"),
        ("serve_app:build", "other:app", "No application has import_path"),
        ("applications:", "applications", "no Serve config file"),
    ],
)
def test_what_is_wrong_is_named(good: str, bad: str, said: str) -> None:
    (problem,) = problems(GOOD.replace(good, bad).encode())
    assert said in problem


def test_the_command(tmp_path: Path) -> None:
    def check(file: Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "serve_app.cli", "check", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    assert check(SHIPPED) == (0, "Every setting can be used.\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text(GOOD.replace("replicas: 2", "replicas: 0"))
    code, said = check(bad)
    assert code == 1
    assert "args: replicas: Input should be greater than or equal to 1" in said


def test_a_file_of_keys_that_is_here_is_looked_over_too(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    config = GOOD.replace("replicas: 2", f"auth.keys_file: {file}").encode()
    assert problems(config) == [], "it needs to be on the gateways' nodes, not here"
    file.write_text("keys: [{name: a}]")
    (problem,) = problems(config)
    assert problem.startswith(f"args: auth: The file of API keys {file} can't be used")
