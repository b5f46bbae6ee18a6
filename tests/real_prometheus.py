"""A real Prometheus on the loopback interface, with this repository's configuration and rules, and what it answers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from serve_app.cluster.instance import free_port
from tests.promtool import DEPLOY, RULES, binary

READY_SECONDS = 30.0


@dataclass(frozen=True)
class Sample:
    """One series of an answer, without its name."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class RealPrometheus:
    """One that runs and scrapes every `step` seconds."""

    url: str
    step: float

    @classmethod
    @contextmanager
    def start(cls, folder: Path, target: str, step: float) -> Iterator[RealPrometheus]:
        """Scrapes `target` (host:port) and evaluates every `step` seconds, otherwise as in deploy/prometheus/prometheus.yml."""
        config = msgspec.yaml.decode((DEPLOY / "prometheus" / "prometheus.yml").read_bytes())
        config["global"] = {"scrape_interval": f"{step:g}s", "evaluation_interval": f"{step:g}s"}
        config["rule_files"] = [str(file) for file in RULES]
        [job] = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        job["scrape_timeout"] = f"{step:g}s"
        file = folder / "prometheus.yml"
        file.write_bytes(msgspec.yaml.encode(config))
        address = f"127.0.0.1:{free_port()}"
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={file}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            running = cls(f"http://{address}", step)
            running._wait_ready(process, folder / "prometheus.log")
            yield running
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def query(self, expression: str, at: float | None = None) -> list[Sample]:
        """The answer at a time (Unix seconds), now if there is none; fails if the expression can't be evaluated."""
        parameters = {"query": expression} | ({"time": f"{at:.3f}"} if at is not None else {})
        reply = httpx.get(f"{self.url}/api/v1/query", params=parameters, timeout=30).json()
        assert reply["status"] == "success", f"{expression}: {reply}"
        data: dict[str, Any] = reply["data"]
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [
            Sample({k: v for k, v in each["metric"].items() if k != "__name__"}, float(each["value"][1]))
            for each in data["result"]
        ]

    def value(self, expression: str, at: float | None = None) -> float:
        """The value of the only series in the answer."""
        [sample] = self.query(expression, at)
        return sample.value

    def wait_for_scrapes(self, number: int = 2) -> None:
        """Return once so many more scrapes have succeeded."""
        since, deadline = time.time(), time.monotonic() + READY_SECONDS
        while True:
            seen = self.query(f'count_over_time(up{{job="embedserve"}}[{max(1, int(time.time() - since))}s])')
            if seen and seen[0].value >= number and self.value('up{job="embedserve"}') == 1:
                return
            assert time.monotonic() < deadline, httpx.get(f"{self.url}/api/v1/targets", timeout=5).text
            time.sleep(0.2)

    def _wait_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if httpx.get(f"{self.url}/-/ready", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.1)
