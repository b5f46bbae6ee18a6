"""A replica that fails its self-check doesn't start, the gateway's health says why, and nobody waits for it."""

from __future__ import annotations

import asyncio
import shutil
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ray import serve
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

from serve_app.cluster import gateway, start_failures
from serve_app.cluster.engine_host import load_batcher
from serve_app.cluster.health import ReplicaHealth
from serve_app.cluster.start_failures import StartFailures, Starting, deployments, reason_in, starting
from serve_app.config import Settings
from serve_app.engine import known
from serve_app.engine.golden import Golden
from serve_app.errors import SelfCheckError
from serve_app.telemetry.nodes import Nodes
from serve_app.types import Ping
from serve_app.verify.local import recorded
from tests.checkpoints import checkpoint
from tests.reference import engine

COMMIT = "c" * 40


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the Hugging Face cache that says it is a known checkpoint's commit, with other weights."""
    monkeypatch.setattr(known, "FOLDER", tmp_path / "known")
    known.FOLDER.mkdir()
    golden = recorded(engine())
    fields = {name: getattr(golden, name) for name in golden.__slots__}
    Golden(**{**fields, "model": "acme/Known", "revisions": [COMMIT]}).write(known.FOLDER / "known.json")
    return Path(shutil.copytree(checkpoint(), tmp_path / "models--acme--Known" / "snapshots" / COMMIT))


def serves_message(folder: Path) -> str:
    """What Serve makes of the exception of a replica with this model: its traceback, behind a sentence of Serve's own."""
    settings = Settings(model=str(folder), num_cpus=0.1, threads=1, pin_cores=False)
    with pytest.raises(SelfCheckError):
        load_batcher(settings, num_gpus=0)
    try:
        load_batcher(settings, num_gpus=0)
    except SelfCheckError:
        trace = traceback.format_exc()
    return f"A replica failed to start with exception. Retrying 2 more time(s). Error:\nray::ServeReplica:x\n{trace}"


async def test_a_damaged_known_checkpoint_is_never_ready_and_health_says_why(damaged: Path) -> None:
    """From the replica's constructor to the gateway's answer, but for Serve's hands between them."""
    message = serves_message(damaged)
    failures = StartFailures(
        "embedserve", "Embedder", lambda _: {"Embedder": Starting(message), "Gateway": Starting("")}
    )
    nobody = SimpleNamespace(listed=[], available=[])
    health = ReplicaHealth(SimpleNamespace(replied_at=-1e9), nobody, lambda: Ping("g"), why_none=failures.reason)  # type: ignore[arg-type]
    reason = await health.reason()
    assert reason is not None
    assert reason.startswith(
        "there is no replica: the model fails its self-check, so it isn't served: golden scores: wrong by "
    )
    assert "where acme/Known has [[" in reason or "where embedserve/demo has" in reason
    assert str(damaged.parents[2]) not in reason


def test_other_failures_are_not_shown_to_everybody() -> None:
    message = "A replica failed to start with exception. Retrying. Error:\nCheckpointError: /secret/path: config.json is missing"
    assert reason_in(message) == "its replicas fail to start; their log says why"
    assert (
        reason_in("The deployment failed to start 3 times in a row.")
        == "its replicas fail to start; their log says why"
    )
    assert reason_in("") is None


async def test_serve_is_asked_once_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    release = threading.Event()

    def ask(application: str) -> dict[str, Starting]:
        asked.append(application)
        release.wait()
        return {"Embedder": Starting("SelfCheckError: why")}

    failures = StartFailures("app", "Embedder", ask, patience=0.01)
    assert [await failures.reason() for _ in range(3)] == [None] * 3
    release.set()
    while await failures.reason() is None:
        pass
    assert (await failures.reason(), asked) == ("why", ["app"])


async def test_serve_that_can_not_be_asked() -> None:
    def ask(application: str) -> dict[str, Starting]:
        raise RuntimeError("no controller")

    assert await StartFailures("app", "Embedder", ask).reason() is None


FAILED = "A replica failed to start with exception. Retrying{} Error:\nTraceback: failed to start 99 times\nSelfCheckError: why"
GIVEN_UP = "The deployment failed to start {} times in a row. This may be due to a problem. Error:\nSelfCheckError: why"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (Starting("", loading=1), True),
        (Starting("A replica's health check failed.", loading=1), True),
        (Starting(FAILED.format(" 2 more time(s)."), loading=1), False),  # the only one wanted, and it is tried again
        (Starting(FAILED.format(" 2 more time(s)."), loading=0), False),
        (Starting(FAILED.format(" 2 more time(s)."), loading=1, serving=1), True),
        (Starting(FAILED.format(" 11 more time(s)."), loading=4), True),  # of four, one
        (Starting(FAILED.format(" 9 more time(s)."), loading=4), True),
        (Starting(FAILED.format(" 8 more time(s)."), loading=4), False),  # as many as there are
        (Starting(FAILED.format(" 8 more time(s)."), loading=3), True),  # the fourth isn't loading now
        (Starting(FAILED.format(" 18 more time(s)."), loading=8), True),
        (Starting(FAILED.format(" 12 more time(s)."), loading=8), False),
        (Starting(FAILED.format("."), loading=1), False),  # a deployment that once ran
        (Starting(FAILED.format("."), loading=2), True),
        (Starting(GIVEN_UP.format(20), loading=30), True),
        (Starting(GIVEN_UP.format(3), loading=1), False),
        (Starting(GIVEN_UP.format(3)), False),
    ],
)
async def test_a_first_attempt_is_waited_for_and_a_second_isn_t(known: Starting, expected: bool) -> None:
    hopeless = await StartFailures("app", "Embedder", lambda _: {"Embedder": known}).hopeless()
    assert hopeless == (None if expected else "why")


def test_what_serve_says_of_replicas() -> None:
    found = starting("why", {"STARTING": 2, "UPDATING": 3, "RUNNING": 4, "STOPPING": 5, "STOPPED": 6})
    assert found == Starting("why", loading=2, serving=7)


def test_what_serve_s_status_becomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def status() -> ServeStatus:
        embedder = DeploymentStatusOverview(
            DeploymentStatus.UPDATING, DeploymentStatusTrigger.UNSPECIFIED, {"STARTING": 1, "STOPPING": 2}, "why"
        )
        application = ApplicationStatusOverview(ApplicationStatus.DEPLOYING, "", 0.0, {"Embedder": embedder})
        return ServeStatus(proxies={}, applications={"app": application})

    monkeypatch.setattr(serve, "status", status)
    assert deployments("app") == {"Embedder": Starting("why", loading=1)}


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A gateway's surroundings, without Serve; its one Embedder has failed and is tried again."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="me"), app_name="app")
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(gateway, "count_in", lambda directory: None)
    monkeypatch.setattr("serve_app.telemetry.nodes.session_folder", lambda: tmp_path)
    monkeypatch.setattr(Nodes, "keep", lambda self: asyncio.sleep(0))
    monkeypatch.setattr("serve_app.cluster.feed._feeds", {})
    known = Starting(FAILED.format(" 2 more time(s)."), loading=1)
    monkeypatch.setattr(start_failures, "deployments", lambda application: {"Embedder": known})


@pytest.mark.parametrize(
    ("scaling", "status"), [({}, 503), ({"max_replicas": 2}, 503), ({"max_replicas": 2, "min_replicas": 0}, 408)]
)
async def test_requests_to_a_gateway_whose_replicas_fail(scaling: dict[str, int], status: int, unwatched: None) -> None:
    handle: Any = SimpleNamespace(options=lambda **_: None)
    # The class under Serve's ingress wrapper, whose constructor needs a replica.
    own: Any = gateway.Gateway.__mro__[1](Settings(autoscaling=scaling), 0.0, handle)  # type: ignore[call-arg]
    app = own.__serve_build_asgi_app__()
    headers = {"x-request-timeout-seconds": "60" if status == 503 else "0.05"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://gateway", headers=headers
    ) as client:
        reply = await client.post("/v1/embeddings", json={"model": "demo", "input": "one"})
        bad = await client.post("/v1/embeddings", json={"model": "demo", "input": []})
        ready = await client.get("/ready")
    assert (reply.status_code, bad.status_code, ready.status_code) == (status, 400, 503 if status == 503 else 200)
    if status == 503:
        assert reply.json()["error"] == {
            "message": "No replica can serve the model: why. Whoever runs this service has to put that right; /ready says when it is.",
            "type": "server_error",
            "param": None,
            "code": "server_is_overloaded",
        }
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("1", "true")
    await own._serving.dispatcher.close()
