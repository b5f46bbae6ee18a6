"""HAProxy's guard, with the real HAProxy, and a process that does with it what Serve's proxy does."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from serve_app.cluster.environment import guarded_haproxy
from serve_app.cluster.haproxy_guard import has_gateways, keep_private, with_own_socket
from serve_app.cluster.instance import free_port

# Starts what its standard input names, one command line a line, and stays: Serve's proxy, as far as HAProxy can tell.
PROXY = """import subprocess, sys
for line in sys.stdin:
    print(subprocess.Popen(line.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)"""

# What the command line says, as a child: Serve's proxy has the raylet as its parent.
RAYLET = "import subprocess, sys; subprocess.run(sys.argv[1:])"

CONFIG = """global
    stats socket {folder}/admin.sock mode 666 level admin expose-fd listeners
    hard-stop-after 5s
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend {default}
backend none
    http-request return status 404
"""
GATEWAYS = """backend app
    server gateway 127.0.0.1:{gateway}
"""


class Node:
    """One node: a gateway that answers, Serve's proxy, and the HAProxy that it starts."""

    def __init__(self, folder: Path, gateway: int) -> None:
        self.folder = folder
        self.gateway = gateway
        self.port = free_port()
        self.config = folder / "haproxy.cfg"
        self.proxy = self.start_proxy()

    @staticmethod
    def start_proxy(*below: str) -> subprocess.Popen[str]:
        """Serve's proxy, as a child of the command `below`, if any."""
        command = [*below, sys.executable, "-c", PROXY]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def kill_proxy(self) -> None:
        self.proxy.kill()
        self.proxy.communicate()

    def write(self, *, gateways: bool) -> None:
        text = CONFIG.format(folder=self.folder, port=self.port, default="app" if gateways else "none")
        self.config.write_text(text + (GATEWAYS.format(gateway=self.gateway) if gateways else ""))

    def start(self, *options: str) -> int:
        """HAProxy's pid, once it answers at its admin socket by that very pid, as Serve wants it."""
        (command,) = guarded_haproxy().values()
        assert self.proxy.stdin is not None
        assert self.proxy.stdout is not None
        self.proxy.stdin.write(" ".join([command, "-db", "-f", str(self.config), "-dR", *options]) + "\n")
        self.proxy.stdin.flush()
        pid = int(self.proxy.stdout.readline())
        until(lambda: self.admin_pid() == pid)
        return pid

    def admin_pid(self) -> int | None:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(self.folder / "admin.sock"))
                connection.sendall(b"show info\n")
                answer = b""
                while part := connection.recv(4096):
                    answer += part
        except OSError:
            return None
        return int(answer.partition(b"\nPid: ")[2].split()[0])

    def status(self) -> int | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in argument for argument in process.info["cmdline"] or []):
                found.append(process)
        return found


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def gateway() -> Iterator[int]:
    class Always200(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Always200) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def node(tmp_path: Path, gateway: int) -> Iterator[Node]:
    node = Node(tmp_path, gateway)
    yield node
    node.kill_proxy()
    for process in node.processes():
        with suppress(psutil.NoSuchProcess):  # the guard goes by itself after HAProxy
            process.kill()
    until(lambda: not node.processes())


def test_a_killed_haproxy_is_stood_in_for_until_the_next_has_taken_over_and_knows_the_gateways(node: Node):
    node.write(gateways=True)
    os.kill(node.start(), signal.SIGKILL)
    until(lambda: node.status() == 200)
    assert node.admin_pid() is None, "to Serve it must stay dead, or it wouldn't replace it"
    # Serve's next proxy starts one that has been told of no gateway yet.
    node.kill_proxy()
    node.proxy = node.start_proxy()
    node.write(gateways=False)
    seen: list[int | None] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.append(node.status())

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    second = node.start()
    node.write(gateways=False)
    third = node.start("-sf", str(second), "-x", str(node.folder / "admin.sock"))
    until(
        lambda: len(node.processes()) == 2
    )  # the third one and its guard: the stand-in, the second and their guards are gone
    done.set()
    asking.join()
    assert set(seen) == {200}, "nobody noticed"
    node.write(gateways=True)
    node.start("-sf", str(third))
    assert node.status() == 200


def test_after_a_reload_the_old_one_is_not_stood_in_for(node: Node):
    node.write(gateways=True)
    first = node.start()
    second = node.start("-sf", str(first))
    until(lambda: len(node.processes()) == 2)
    assert node.admin_pid() == second
    assert node.status() == 200


def test_a_haproxy_that_goes_with_its_proxy_is_not_stood_in_for(node: Node):
    node.write(gateways=True)
    haproxy = node.start()
    node.kill_proxy()
    os.kill(haproxy, signal.SIGKILL)
    until(lambda: not node.processes())
    assert node.status() is None


def test_a_haproxy_goes_after_its_whole_node(node: Node):
    """Only the raylet and what dies with it: Serve's proxy, which would stop HAProxy, can't any more."""
    node.kill_proxy()
    node.proxy = node.start_proxy(sys.executable, "-c", RAYLET)
    node.write(gateways=True)
    haproxy = psutil.Process(node.start())
    assert node.status() == 200
    [proxy] = psutil.Process(node.proxy.pid).children()
    node.kill_proxy()
    proxy.kill()
    until(lambda: not haproxy.is_running() and not node.processes())
    assert node.status() is None


def test_without_gateways_clients_are_told_to_come_again_and_there_is_nothing_to_stand_in_for(node: Node):
    node.write(gateways=False)
    haproxy = node.start()
    assert node.status() == 503
    os.kill(haproxy, signal.SIGKILL)
    until(lambda: not node.processes())


def test_an_application_that_is_deleted_stays_deleted(node: Node):
    node.write(gateways=True)
    first = node.start()
    node.write(gateways=False)
    node.start("-sf", str(first))
    until(lambda: node.status() == 503)


def test_its_folder_is_for_its_user_only(node: Node):
    """Serve opens the admin socket to everybody."""
    node.folder.chmod(0o755)
    node.write(gateways=True)
    node.start()
    assert stat.S_IMODE((node.folder / "admin.sock").stat().st_mode) & 0o777 == 0o666
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700


def test_a_folder_in_another_user_s_hands_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "theirs" / "node"
    folder.mkdir(parents=True)
    uid, found = os.geteuid() + 1, Path.stat
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    theirs = os.stat_result([0o40755, 0, 0, 0, uid + 1, 0, 0, 0, 0, 0])
    monkeypatch.setattr(Path, "stat", lambda self: theirs if self.name == "theirs" else mine(found(self), uid))
    with pytest.raises(PermissionError, match="theirs belongs to another user"):
        keep_private(folder)


def mine(status: os.stat_result, uid: int) -> os.stat_result:
    return os.stat_result([*status[:4], uid, *status[5:10]])


def test_what_it_reads_of_a_configuration():
    assert not has_gateways(CONFIG)
    assert has_gateways(CONFIG + GATEWAYS)
    assert not has_gateways("    # server one\nserver-state-file x")
    other = with_own_socket(CONFIG.format(folder="/run/x", port=1, default="none"))
    assert "stats socket /run/x/s mode 666 level admin" in other
