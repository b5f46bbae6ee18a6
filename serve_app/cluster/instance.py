"""What `embedserve up` leaves on disk so that `down` and `status` find it."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from serve_app.cluster.environment import run_directory


@dataclass(frozen=True, slots=True)
class Instance:
    """A running `embedserve up`. `started` is the process's creation time, so that a reused pid isn't taken for it."""

    pid: int
    started: float
    port: int
    model: str

    @classmethod
    def of_this_process(cls, port: int, model: str) -> Instance:
        process = psutil.Process()
        return cls(process.pid, process.create_time(), port, model)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.started) < 1 else None
        except psutil.NoSuchProcess:
            return None

    def save(self) -> None:
        directory = run_directory(self.port)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "instance.json").write_text(json.dumps(asdict(self)))


def find(port: int) -> Instance | None:
    """The instance that was started on `port`, running or not."""
    try:
        return Instance(**json.loads((run_directory(port) / "instance.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def port_holder(port: int) -> str | None:
    """None if the port can be listened on, else who holds it, as far as the operating system says."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - where HAProxy will bind
            return None
        except PermissionError:
            return "the operating system, which keeps it for root"
        except OSError:
            pass
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                continue
    return "another process"


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get_json(url: str, timeout: float = 5.0, api_key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON body of a GET; status 0 if nobody answers in HTTP, an empty body if it isn't a JSON object."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - always the instance's own URL
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    except (OSError, http.client.HTTPException):
        return 0, {}
    try:
        value = json.loads(body)
    except ValueError:
        value = {}
    return status, value if isinstance(value, dict) else {}
