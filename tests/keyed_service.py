"""`embedserve up` with API keys from a file, limits and ledger in a real Redis, and two gateways that can be asked one by one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from serve_app.access.key import hashed
from serve_app.cluster.environment import Ports
from serve_app.telemetry.ledger import Used
from tests.redis_server import RedisServer
from tests.running import RunningService

GATEWAY_PORTS = range(Ports().gateway_first, Ports().gateway_last + 1)
MODEL = "embedserve/demo"


@dataclass
class KeyedService:
    """A running one. A key's secret is `{name}-secret`; `keys` are the entries of the file as it was written last."""

    service: RunningService
    redis: RedisServer
    file: Path
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def running(cls, folder: Path, keys: dict[str, dict[str, Any]]) -> Iterator[KeyedService]:
        """The service, with these keys: what each allows, by its name."""
        file = folder / "keys.yaml"
        write(file, keys)
        with RedisServer.running(folder) as redis:
            settings = {
                "num_cpus": 0.5,
                "auth.keys_file": file,
                "auth.redis_url": redis.url,
                "ledger.redis_url": redis.url,
            }
            options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
            with RunningService.start(folder / "up.log", "--gateways", "2", *options) as service:
                yield cls(service, redis, file, keys)
        assert service.leftovers() == []

    def rewrite(self, **keys: dict[str, Any] | None) -> None:
        """Change the file in one step; None takes a key away."""
        self.keys = {name: allows for name, allows in (self.keys | keys).items() if allows is not None}
        write(self.file, self.keys)

    @property
    def urls(self) -> list[str]:
        """Where each gateway listens by itself, behind HAProxy."""
        ports = {
            port for process in self.service.replicas("Gateway") for port in listening(process) if port in GATEWAY_PORTS
        }
        return [f"http://127.0.0.1:{port}" for port in sorted(ports)]

    def listening(self) -> dict[int, str]:
        """All ports on which processes of the service listen, and what those call themselves."""
        found: dict[int, str] = {}
        for process in self.service.processes():
            with suppress(psutil.Error):
                found |= dict.fromkeys(listening(process), process.name())
        return found

    def client(self, name: str | None, url: str | None = None) -> httpx.AsyncClient:
        """A caller with this key, of one gateway or of the service."""
        headers = {} if name is None else {"authorization": f"Bearer {name}-secret"}
        return httpx.AsyncClient(base_url=url or self.service.url, headers=headers, timeout=60)

    async def total(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, as the service shows it to an admin."""
        async with self.client("admin") as http:
            text = (await http.get("/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )

    async def used(self) -> dict[str, Used]:
        """What the ledger says of each key."""
        async with self.client("admin") as http:
            rows = (await http.get("/v1/usage")).json()["keys"]
        return {row["key"]: Used(row["requests"], row["inputs"], row["prompt_tokens"]) for row in rows}


def write(file: Path, keys: dict[str, dict[str, Any]]) -> None:
    """The file of keys, in one step. JSON is YAML."""
    draft = file.with_suffix(".draft")
    entries = [{"name": name, "hash": hashed(f"{name}-secret"), **allows} for name, allows in keys.items()]
    draft.write_text(json.dumps({"keys": entries}))
    draft.replace(file)


def listening(process: psutil.Process) -> list[int]:
    """The ports on which a process listens, none if it is gone."""
    try:
        sockets = process.net_connections("tcp")
    except psutil.Error:
        return []
    return [socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN]


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 60.0) -> None:
    """Return once `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.1)
