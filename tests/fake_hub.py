"""A stand-in for Hugging Face on the loopback, over http.server: one repository's listing, and its files with ranges.

``refuse`` is (status, X-Error-Code) for every answer. ``cut`` ends the next answers with bytes of a file after so many;
``stall`` sends so many and then no more. With ``lies`` all bytes are zeros.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """``files``: name in the repository to content. ``asked``: (method, path, Range) of all that was asked."""

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository, self.files = repository, files
        self.asked: list[tuple[str, str, str | None]] = []
        self.refuse: tuple[int, str] | None = None
        self.cut: list[int] = []
        self.lies = False
        self.stall: int | None = None
        self._closed = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that went away is what some tests are about

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self.server.shutdown()
        self.server.server_close()

    def ranges(self) -> list[str | None]:
        """Of the files that were asked for with their bytes."""
        return [r for method, path, r in self.asked if method == "GET" and "/resolve/" in path]

    def answer(self, to: BaseHTTPRequestHandler, body: bool) -> None:
        path = to.path.split("?")[0]
        self.asked.append((to.command, to.path, to.headers["Range"]))
        if self.refuse:
            return self._send(to, self.refuse[0], b"", body, {"X-Error-Code": self.refuse[1]})
        if path == f"/api/models/{self.repository}":
            return self._send(to, 200, json.dumps(self._listing()).encode(), body, {"Content-Type": "application/json"})
        found = re.fullmatch(rf"/{self.repository}/resolve/(main|{COMMIT})/(.+)", path)
        if found and found[2] in self.files:
            return self._file(to, self.files[found[2]], body)
        code = "EntryNotFound" if found else "RepoNotFound"
        return self._send(to, 404, b"", body, {"X-Error-Code": code})

    def _listing(self) -> dict[str, Any]:
        siblings = [
            {
                "rfilename": n,
                "size": len(c),
                "blobId": "0",
                "lfs": {"sha256": _sha(c), "size": len(c), "pointerSize": 1},
            }
            for n, c in self.files.items()
        ]
        return {
            "id": self.repository,
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "tags": [],
            "downloads": 0,
        }

    def _file(self, to: BaseHTTPRequestHandler, content: bytes, body: bool) -> None:
        facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{_sha(content)}"', "X-Linked-Size": str(len(content))}
        sent = bytes(len(content)) if self.lies else content
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", to.headers["Range"] or "")
        if wanted is None:
            return self._send(to, 200, sent, body, facts)
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        facts["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._send(to, 206, sent[start : end + 1], body, facts)

    def _send(self, to: BaseHTTPRequestHandler, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        to.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            to.send_header(name, value)
        to.end_headers()
        if body:
            of_file = "/resolve/" in to.path
            end = self.cut.pop(0) if self.cut and of_file else len(data)
            if self.stall is not None and of_file:
                to.wfile.write(data[: self.stall])
                self._closed.wait()
            to.wfile.write(data[:end])
            to.close_connection = to.close_connection or end < len(data)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
