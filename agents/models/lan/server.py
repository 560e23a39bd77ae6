"""Serves this device's model files to the other devices of the cluster, and disturbs no benchmark.

What may be asked, and what the answers mean: ``share_protocol``. A file is sent by its SHA-256 alone; while a benchmark
is measured here nothing is begun, and what has begun stands still.
"""

from __future__ import annotations

import hmac
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from agents.models.lan.catalogue import LACKED, Finder, Found
from agents.models.lan.protocol import BEAT, BYTES, HEX64, STATE, STATUS, State, files_to_json
from agents.models.lan.shared_files import offer_the_store

MOST_TRANSFERS = 2
"""Files sent at once. Few: those that have one soon serve it too, and a file reaches many devices in few rounds."""

_MOST_CONNECTIONS = 64
_BLOCK_BYTES = 1 << 20
_PAUSE_S = 0.25
_SILENCE_S = 30.0  # a client that neither asks nor takes anything is let go
_RETRY_S = {State.MEASURES: 5}
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class ModelServer:
    """Serves from its construction to ``close``. ``busy`` is asked often, from several threads, and must be quick."""

    def __init__(
        self, folder: Path, token: str, busy: Callable[[], bool], host: str = "0.0.0.0", port: int = 0
    ) -> None:
        """``folder``: this device's store of model files. ``port`` 0: any. Raises OSError, ValueError for no token."""
        if not token:
            raise ValueError("a model server needs a token")
        self._token = token.encode()
        self._busy = busy
        self._closed = threading.Event()
        self._slots = threading.BoundedSemaphore(MOST_TRANSFERS)
        self._transfers = 0
        self._counting = threading.Lock()
        self.finder = Finder(folder, busy, self.pause)
        self._server = _Server((host, port), self)
        threading.Thread(target=self._serve, args=(folder,), name="model-server", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def transfers(self) -> int:
        """Files that are being sent now, also those that stand still."""
        return self._transfers

    def close(self) -> None:
        """Ends the server; a transfer ends with its block."""
        if not self._closed.is_set():
            self._closed.set()
            self._server.shutdown()
            self._server.server_close()

    def _serve(self, folder: Path) -> None:
        offer_the_store(folder)
        self._server.serve_forever(poll_interval=0.1)

    def knows(self, authorization: str | None) -> bool:
        sent = (authorization or "").encode("latin-1", "replace")
        return hmac.compare_digest(sent, b"Bearer " + self._token)

    def pause(self) -> bool:
        """Waits for as long as a benchmark is measured; False where the server is being closed."""
        while self._busy() and not self._closed.is_set():
            self._closed.wait(_PAUSE_S)
        return not self._closed.is_set()

    def contents(self, sha256: str) -> Found:
        found = self.finder.by_contents(sha256)
        full = found.state is State.HAS and self._transfers >= MOST_TRANSFERS
        return Found(State.SERVES, found.bytes_so_far) if full else found

    def send(self, connection: socket.socket, file: BinaryIO, start: int, count: int) -> None:
        """``count`` bytes from ``start`` on, from the kernel's pages to the network card where the system can."""
        while count > 0 and self.pause():
            sent = connection.sendfile(file, start, min(count, _BLOCK_BYTES))
            if not sent:  # cut off while it was sent: the client sees too few bytes
                return
            start, count = start + sent, count - sent

    def begin_transfer(self) -> bool:
        begun = self._slots.acquire(blocking=False)
        with self._counting:
            self._transfers += begun
        return begun

    def end_transfer(self) -> None:
        with self._counting:
            self._transfers -= 1
        self._slots.release()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Not ``http.server.HTTPServer``, which asks the name service for the host's own name first."""

    allow_reuse_address = sys.platform != "win32"  # there it would let another program take the port
    daemon_threads = True

    def __init__(self, address: tuple[str, int], models: ModelServer) -> None:
        self.models = models
        self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to tell, and what it sent is not to be repeated in a log."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "orchestrate", ""
    timeout = _SILENCE_S

    def log_message(self, *_: object) -> None:
        """Nothing: a path of the user's stands in a request."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        models = self.server.models
        if not models.knows(self.headers.get("Authorization")):
            self._head(401, {"WWW-Authenticate": "Bearer"}, 0)
            return
        where = urlsplit(self.path)
        kind, _, name = where.path.lstrip("/").partition("/")
        if kind == "sha256" and HEX64.fullmatch(name):
            self._file(models.contents(name), name)
        elif where.path == "/find":
            self._say(self._found(models.finder, where.query))
        else:
            self._say(LACKED)

    def _found(self, finder: Finder, query: str) -> Found:
        try:
            asked = {name: values[0] for name, values in parse_qs(query, errors="strict", max_num_fields=4).items()}
        except ValueError:
            return LACKED
        if "path" in asked:
            return finder.at_path(asked["path"], asked.get("mmproj"))
        key = asked.get("url_key", "")
        return finder.by_address(key) if HEX64.fullmatch(key) else LACKED

    def _say(self, found: Found) -> None:
        body = files_to_json(found.files) if found.state is State.HAS else b""
        self._head(STATUS[found.state], _headers_of(found), len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, found: Found, sha256: str) -> None:
        models = self.server.models
        if found.state is not State.HAS or found.path is None:
            self._say(found)
        elif self.command == "HEAD":
            self._head(200, _headers_of(found), found.bytes_so_far)
        elif not models.begin_transfer():
            self._say(Found(State.SERVES, found.bytes_so_far))
        else:
            try:
                self._send_file(found, sha256)
            finally:
                models.end_transfer()

    def _send_file(self, found: Found, sha256: str) -> None:
        assert found.path is not None
        try:
            file = found.path.open("rb")
        except OSError:
            self._say(LACKED)
            return
        with file:
            size = found.bytes_so_far
            headers = {**_headers_of(found), "Content-Type": "application/octet-stream", "ETag": f'"{sha256}"'}
            start, end = _range_of(self.headers.get("Range"), size)
            if start >= size > 0:
                self._head(416, {**headers, "Content-Range": f"bytes */{size}"}, 0)
                return
            status = 200
            if (start, end) != (0, size):
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._head(status, headers, end - start)
            with suppress(OSError):  # the client went away
                self.server.models.send(self.connection, file, start, end - start)

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()


def _headers_of(found: Found) -> dict[str, str]:
    headers = {STATE: found.state.value, BYTES: str(found.bytes_so_far)}
    if found.beat:
        headers[BEAT] = found.beat
    if STATUS[found.state] in (202, 503):
        headers["Retry-After"] = str(_RETRY_S.get(found.state, 1))
    return headers


def _range_of(stated: str | None, size: int) -> tuple[int, int]:
    """First byte, and the one after the last. What is not one range of bytes from a place on asks for all."""
    found = _RANGE.fullmatch(stated or "")
    if found is None:
        return 0, size
    start = int(found[1])
    end = min(size, int(found[2]) + 1) if found[2] else size
    return (start, end) if start < end or start >= size else (0, size)
