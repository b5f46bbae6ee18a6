"""Settings that change while a replica serves: what is applied, and what a bad change costs."""

from __future__ import annotations

import logging

import pytest

from serve_app.cluster.live import LiveSettings
from serve_app.config import EMBEDDER_LIVE, Settings
from serve_app.errors import CheckpointError

STARTED = Settings.model_validate({"batch.max_inputs": 8})


class Replica:
    """Applies anything but a `max_inputs` of 13."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, int]] = []
        self.settings = LiveSettings(STARTED, EMBEDDER_LIVE, self.apply)

    def apply(self, settings: Settings, before: Settings) -> None:
        if settings.batch.max_inputs == 13:
            raise CheckpointError("13 is unlucky")
        self.applied.append((before.batch.max_inputs, settings.batch.max_inputs))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("serve_app"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_change_is_applied_and_logged_and_taken_back(log: pytest.LogCaptureFixture) -> None:
    replica = Replica()
    replica.settings.change(STARTED.live(EMBEDDER_LIVE))
    assert replica.applied == []
    replica.settings.change({"batch": {"max_inputs": 4}})
    replica.settings.change({"batch": {"max_tokens": 64}})
    assert replica.applied == [(8, 4), (4, 8)]
    assert (replica.settings.current.batch.max_inputs, replica.settings.current.batch.max_tokens) == (8, 64)
    assert "batch.max_inputs=4" in log.messages[0]
    assert "batch.max_tokens=64, batch.max_inputs=8" in log.messages[1]


@pytest.mark.parametrize("bad", [{"batch": {"max_inputs": 0}}, {"batch": {"max_inputs": 13}}, {"replicas": 2}])
def test_a_bad_change_is_refused_and_the_replica_goes_on(bad: dict[str, object], log: pytest.LogCaptureFixture) -> None:
    replica = Replica()
    replica.settings.change({"batch": {"max_inputs": 4}})
    log.clear()
    replica.settings.change(bad)
    assert replica.settings.current.batch.max_inputs == 4
    assert replica.applied == [(8, 4)]
    assert [record.levelname for record in log.records] == ["ERROR"]
    assert "settings stay as they were" in log.messages[0]


@pytest.mark.parametrize("bad", [{"batch": {"max_inputs": 0}}, {"batch": {"max_inputs": 13}}, {"replicas": 2}])
def test_a_replica_does_not_start_with_a_bad_one(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="user_config can't be applied"):
        Replica().settings.change(bad)
