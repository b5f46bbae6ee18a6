"""A Hugging Face hub on this machine: one repository, whose branches can be moved."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "owner/name"

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body and headers."""


class Hub(ThreadingHTTPServer):
    """Serves the files of `folder` as every commit's. `branches` maps a name to its commit; `POST /push/COMMIT` moves main. Nothing is
    answered while `answers` is cleared. `asked` has the paths asked for."""

    daemon_threads = True

    def __init__(self, folder: Path, commit: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.branches = {"main": commit}
        self.answers = threading.Event()
        self.answers.set()
        self.asked: list[str] = []

    @classmethod
    @contextmanager
    def running(cls, folder: Path, commit: str) -> Iterator[Hub]:
        hub = cls(folder, commit)
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.answers.set()
            hub.shutdown()
            thread.join()
            hub.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """This process's, with this hub as the one to ask and a cache in `home`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        return inherited | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}

    def reply(self, method: str, path: str) -> Answer:
        parts = path.partition("?")[0].strip("/").split("/")
        if method == "POST":
            self.branches["main"] = parts[-1]
            return 200, b"", {}
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) == MODEL:
            return self._described(self._commit(parts[5] if parts[4:] else "main"), tree=parts[4:5] == ["tree"])
        if "/".join(parts[:2]) == MODEL and parts[2:3] == ["resolve"]:
            return self._resolved(self._commit(parts[3]), self.folder.joinpath(*parts[4:]))
        return 404, b"", {"X-Error-Code": "RepoNotFound"}

    def _described(self, commit: str | None, tree: bool) -> Answer:
        if commit is None:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        said = self._tree() if tree else {"id": MODEL, "sha": commit}
        return 200, json.dumps(said).encode(), {}

    def _resolved(self, commit: str | None, file: Path) -> Answer:
        if commit is None or not file.is_file():
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        return 200, file.read_bytes(), {"X-Repo-Commit": commit, "ETag": f'"{self._blob(file)}"'}

    def _commit(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if len(revision) == 40 else None)

    def _blob(self, file: Path) -> str:
        """The cache keeps one file for each of these."""
        return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()

    def _tree(self) -> list[dict[str, object]]:
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return [
            {
                "type": "file",
                "path": str(file.relative_to(self.folder)),
                "size": file.stat().st_size,
                "oid": self._blob(file),
            }
            for file in files
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _answer(self) -> None:
        self.server.asked.append(self.path)
        self.server.answers.wait()
        status, body, headers = self.server.reply(self.command, self.path)
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            pass  # whoever asked has gone

    do_GET = do_HEAD = do_POST = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""
