"""A branch on Hugging Face becomes a commit once, where the deployment is built; here against a hub of our own.

In processes of their own, since huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import serve

from serve_app.cluster import graph
from serve_app.cluster import pinned as pinning
from serve_app.cluster.served import fingerprint
from serve_app.config import Settings
from serve_app.engine import commit as commit_module
from serve_app.engine.commit import commit_of
from tests.checkpoints import checkpoint
from tests.hub import MODEL, Hub

A, B = "a" * 40, "b" * 40


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub.running(checkpoint(), A) as running:
        yield running


def run(script: str, environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def commits(environment: dict[str, str], *asked: tuple[str, str | None], seconds: float = 60) -> Any:
    """What `commit_of` gives for each of these."""
    return run(
        f"""
import json
from serve_app.engine import commit
commit.HUB_SECONDS = {seconds}
print(json.dumps([commit.commit_of(*each) for each in {asked!r}]))
""",
        environment,
    )


def commit(environment: dict[str, str], seconds: float = 60) -> Any:
    return commits(environment, (MODEL, None), seconds=seconds)[0]


def test_replicas_load_the_commit_that_the_deployment_was_built_with_whatever_is_pushed(
    hub: Hub, tmp_path: Path
) -> None:
    script = f"""
import json, urllib.request
from ray import serve
from serve_app.cluster.graph import build
from serve_app.cluster.served import open_model
from serve_app.config import Settings

asked = Settings(model={MODEL!r}, num_gpus=0)
gateway = build(asked)._bound_deployment
embedder = next(each._bound_deployment for each in gateway.init_args if isinstance(each, serve.Application))
urllib.request.urlopen("{hub.url}/push/{B}", data=b"")
again = build(asked)._bound_deployment
found = [open_model(each.init_args[0]) for each in (gateway, embedder, again)]
print(json.dumps([[model.served.revision, model.fingerprint] for model in found]))
"""
    (early, print_a), (late, print_late), (again, print_b) = run(script, hub.environment(tmp_path))
    assert (early, late, again) == (A, A, B)
    assert print_a == print_late != print_b


def test_the_hub_goes_before_the_cache_and_the_cache_before_nothing(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path)
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    assert commit(offline) is None
    assert commit(environment) == A
    hub.branches["main"] = B
    asked = len(hub.asked)
    assert commit(offline) == A
    assert commit(environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}) == A
    assert len(hub.asked) == asked
    assert commit(environment) == B
    assert commit(offline) == B


def test_tags_and_what_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    hub.branches["v1"] = B
    environment = hub.environment(tmp_path)
    asked = [(MODEL, "v1"), (MODEL, "v2"), ("owner/nothing", None), ("not an id", None)]
    assert commits(environment, *asked) == [B, None, None, None]
    assert commits(environment | {"HF_HUB_OFFLINE": "1"}, *asked) == [B, None, None, None]


def test_a_commit_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "HfApi", lambda: pytest.fail("asked"))
    assert commit_of(MODEL, A) == A


def test_a_hub_that_does_not_answer_is_not_waited_for(hub: Hub, tmp_path: Path) -> None:
    environment = hub.environment(tmp_path)
    assert commit(environment) == A
    hub.branches["main"] = B
    hub.answers.clear()
    assert commit(environment, seconds=0.2) == A


@pytest.mark.parametrize("model", ["embedserve/demo", str(Path(__file__).parent), "/no/such/folder", "./none"])
def test_the_hub_is_not_asked_about_what_is_not_its_own(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "commit_of", lambda *_: pytest.fail("asked"))
    settings = Settings(model=model, num_gpus=0)
    assert pinning.pinned(settings) is settings


def test_where_nobody_knows_the_settings_stay_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pinning, "commit_of", lambda *_: None)
    monkeypatch.setattr(pinning.logger.parent, "propagate", True)
    settings = Settings(model=MODEL, revision="v1", num_gpus=0)
    assert pinning.pinned(settings) is settings
    assert "which commit v1 of owner/name is" in caplog.text


def test_gateways_and_embedders_get_the_commit_and_fingerprints_tell_commits_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commits = iter([A, B])
    monkeypatch.setattr(pinning, "commit_of", lambda *_: next(commits))
    monkeypatch.setattr(graph, "configure_logging", lambda _: pinning.logger)  # this process's log stays as it is
    prints = []
    for expected in (A, B):
        gateway = graph.application(Settings(model=MODEL, num_gpus=0))._bound_deployment
        embedder = next(each._bound_deployment for each in gateway.init_args if isinstance(each, serve.Application))
        assert (gateway.init_args[0].revision, embedder.init_args[0].revision) == (expected, expected)
        prints.append(fingerprint(embedder.init_args[0], checkpoint()))
    assert prints[0] != prints[1]
