"""A small Hugging Face hub on the loopback: the listing of a repository, its files with ranges, and what goes wrong.

It is any web server too: ``hub.address(NAME)`` is that of a file."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "someone/Tiny-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Asked:
    """One request that came in; ``sent_bytes`` counts the body that went out."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    if_range: str | None = None
    sent_bytes: int = 0


class _HttpServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests do; anything else is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class FakeHub:
    """A hub with one repository. Change the fields while it runs; ``with FakeHub(...) as hub`` starts and ends it."""

    repo: str
    files: dict[str, bytes]
    stated_sizes: dict[str, int] = field(default_factory=dict)  # instead of the real ones, in the listing
    stated_sha256: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, dict[str, str]] | None = None  # status and headers of every answer
    cuts: list[int] = field(default_factory=list)  # the next answers with a file end after so many bytes
    knows_ranges: bool = True
    knows_head: bool = True
    tells_size: bool = True  # else the end of the connection is that of the file
    stops_at: tuple[int, threading.Event] | None = None  # bytes of each file, then the event is waited for
    sends_files_from: str | None = None  # another endpoint, to which requests for files are redirected
    revisions: tuple[str, ...] = ("main", COMMIT)
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_RequestHandler):
            pass

        Handler.hub = hub
        self._server = _HttpServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def address(self, name: str) -> str:
        return f"{self.endpoint}/{self.repo}/resolve/main/{name}"

    def sent_bytes(self) -> int:
        """Of all files together."""
        return sum(one.sent_bytes for one in self.file_requests())

    def file_requests(self) -> list[Asked]:
        return [one for one in self.asked if "/resolve/" in one.path and one.method == "GET"]

    def listing(self) -> dict[str, Any]:
        siblings = []
        for path, data in self.files.items():
            size = self.stated_sizes.get(path, len(data))
            sha256 = self.stated_sha256.get(path, hashlib.sha256(data).hexdigest())
            lfs = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append({"rfilename": path, "size": size, "blobId": "0" * 40, "lfs": lfs})
        return {"id": self.repo, "modelId": self.repo, "sha": COMMIT, "siblings": siblings}


class _RequestHandler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """The tests read ``hub.asked`` instead."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        asked = Asked(self.command, path, headers.get("Range"), headers.get("Authorization"), headers.get("If-Range"))
        self.hub.asked.append(asked)
        api, resolve = f"/api/models/{self.hub.repo}", f"/{self.hub.repo}/resolve/"
        if not self.hub.knows_head and self.command == "HEAD":
            self._send(405, {}, b"", asked)
        elif self.hub.refusal is not None:
            self._send(self.hub.refusal[0], self.hub.refusal[1], b"{}", asked)
        elif path == api or path in [f"{api}/revision/{revision}" for revision in self.hub.revisions]:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(self.hub.listing()).encode(), asked)
        elif path.startswith(f"{api}/revision/"):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", asked)
        elif path.startswith(resolve):
            self._send_file(path.removeprefix(resolve).partition("/")[2], asked)
        else:
            self._send(401, {"X-Error-Code": "RepoNotFound"}, b"{}", asked)

    def _send_file(self, name: str, asked: Asked) -> None:
        data = self.hub.files.get(name)
        if data is None:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"{}", asked)
            return
        if self.hub.sends_files_from is not None:
            self._send(302, {"Location": self.hub.sends_files_from + self.path}, b"", asked)
            return
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        status, start = 200, 0
        same = asked.if_range in (None, headers["ETag"])
        end = len(data)
        if asked.range is not None and self.hub.knows_ranges and same:
            first, _, last = asked.range.removeprefix("bytes=").partition("-")
            start = int(first)
            end = int(last) + 1 if last else end
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        cut = self.hub.cuts.pop(0) if self.hub.cuts and asked.method == "GET" else None
        self._send(status, headers, data[start:end], asked, cut)

    def _send(self, status: int, headers: dict[str, str], body: bytes, asked: Asked, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.hub.tells_size:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if asked.method == "GET":
            part = body[:cut]
            if self.hub.stops_at is not None and "/resolve/" in asked.path:
                first, go_on = self.hub.stops_at
                self.wfile.write(part[:first])
                go_on.wait(60)
                part = part[first:]
                asked.sent_bytes = min(first, len(body))
            self.wfile.write(part)
            asked.sent_bytes += len(part)
