"""From settings and the environment to the keys and limits of a gateway."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from serve_app.access.key import hashed
from serve_app.access.limiter import ShareLimiter
from serve_app.cli import app
from serve_app.cluster import local
from serve_app.cluster.guarding import Guarding, keys_of, limiter_of
from serve_app.cluster.ledger import store_of
from serve_app.config import AuthSettings, LedgerSettings, Settings
from serve_app.errors import EmbedserveError
from serve_app.telemetry.directory import MetricsDirectory
from serve_app.telemetry.key_metrics import KeyMetrics
from serve_app.telemetry.ledger_store import SqliteStore
from tests.counted import counted, total

__all__ = ["counted"]

SECRET = "a secret of more than twenty characters"


def test_without_a_file_or_a_hash_there_are_no_keys() -> None:
    assert not AuthSettings().on
    assert AuthSettings(keys_file="x").on
    assert AuthSettings(key_hash=hashed("x")).on


def test_the_key_of_the_settings_is_an_admin_beside_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{{name: a, hash: '{hashed('one')}'}}]")
    ring = keys_of(AuthSettings(keys_file=str(path), key_hash=hashed("two"))).ring
    assert {name: key.admin for name, key in ring.keys.items()} == {"default": True, "a": False}


@pytest.mark.parametrize(
    "arguments",
    [
        {"auth.key_hash": "secret"},
        {"auth.key_hash": hashed("x") + "\n"},
        {"auth.redis_url": "localhost:6379"},
        {"ledger.redis_url": "http://localhost"},
        {"ledger.path": "x", "ledger.redis_url": "redis://localhost"},
        {"auth.colour": "blue"},
    ],
)
def test_refused_settings(arguments: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(arguments)


def test_gateways_share_the_limits_out(counted: MetricsDirectory) -> None:
    limiter = limiter_of(Settings(gateways=4), "app", KeyMetrics())
    assert isinstance(limiter, ShareLimiter)
    assert limiter.most(100) == 25


def test_refusals_are_counted_by_key_and_limit(counted: MetricsDirectory) -> None:
    metrics = KeyMetrics()
    settings = Settings.model_validate({"auth.key_hash": hashed("x")})
    Guarding(settings, "app", metrics).gate._entrance.on_refused("default", "tokens")
    metrics.decided_alone()
    assert total(counted, "key_refusals_total", key="default", limit="tokens") == 1
    assert total(counted, "limits_without_redis_total") == 1


def test_redis_is_an_extra(counted: MetricsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("serve_app.access.redis_limiter", "serve_app.telemetry.ledger_redis", "redis", "redis.asyncio"):
        monkeypatch.setitem(sys.modules, module, None)
    url = "redis://localhost"
    with pytest.raises(EmbedserveError, match=r"embedserve\[redis\]"):
        limiter_of(Settings.model_validate({"auth.redis_url": url}), "app", KeyMetrics())
    with pytest.raises(EmbedserveError, match=r"embedserve\[redis\]"):
        store_of(LedgerSettings(redis_url=url), "app")


def test_the_stores_of_the_ledger(tmp_path: Path) -> None:
    assert store_of(LedgerSettings(), "app") is None
    assert isinstance(store_of(LedgerSettings(path=str(tmp_path / "x.db")), "app"), SqliteStore)


# --- embedserve up


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What `embedserve up` would have started with; it starts nothing."""
    settings: list[Settings] = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(local, "serve_here", lambda given, *_: settings.append(given))
    return settings


def up(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["up", "--port", "18471", *arguments])


def test_a_key_in_the_environment_becomes_a_hash_and_goes_no_further(started: list[Settings]) -> None:
    os.environ["EMBEDSERVE_API_KEY"] = SECRET
    result = up()
    assert result.exit_code == 0, result.output
    assert started[0].auth.key_hash == hashed(SECRET)
    assert "EMBEDSERVE_API_KEY" not in os.environ
    assert SECRET not in repr(started[0]) + result.output


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("guess me", "has fewer than 20 characters"),
        ("x" * 257, "at most 256 bytes"),
        (SECRET + "\n", "no spaces at its ends"),
    ],
)
def test_a_key_that_is_no_good_is_refused(started: list[Settings], secret: str, says: str) -> None:
    os.environ["EMBEDSERVE_API_KEY"] = secret
    result = up()
    assert result.exit_code == 1
    assert says in result.output
    assert secret not in result.output
    assert started == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, "model    m\n"),
        (401, "model    not told without an API key: put one into EMBEDSERVE_API_KEY\n"),
        (403, ""),
    ],
)
def test_status_says_why_it_names_no_model(monkeypatch: pytest.MonkeyPatch, status: int, said: str) -> None:
    def get_json(url: str, **_: object) -> tuple[int, dict[str, Any]]:
        if url.endswith("/health"):
            return 200, {"status": "healthy"}
        return status, {"data": [{"id": "m"}]} if status == 200 else {"error": {}}

    monkeypatch.setattr("serve_app.cluster.instance.get_json", get_json)
    result = CliRunner().invoke(app, ["status", "--port", "1"])
    assert result.exit_code == 0
    assert result.stdout.endswith(f"health   healthy\n{said}")


def test_paths_count_from_where_the_command_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = local._from_here(Settings.model_validate({"auth.keys_file": "keys.yaml", "ledger.path": "l.db"}))
    assert settings.auth.keys_file == str(tmp_path / "keys.yaml")
    assert settings.ledger.path == str(tmp_path / "l.db")
    assert local._from_here(Settings()) == Settings()
