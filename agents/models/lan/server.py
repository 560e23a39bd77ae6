"""HTTP server of this device's model files for the other devices of the cluster; it disturbs no benchmark.

Requests and responses: ``protocol``. A file is sent by its SHA-256 alone. While a benchmark is measured here, no
transfer is begun, and those that run pause between two blocks.
"""

from __future__ import annotations

import hmac
import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from agents.models.lan.admission import SHOW_S, Admission
from agents.models.lan.catalogue import ABSENT, Availability, Catalogue
from agents.models.lan.protocol import BEAT, BYTES, HEX64, HTTP_STATUS, STATE, FileStatus, files_to_json, range_of
from agents.models.lan.shared_files import share_store

MAX_TRANSFERS = 2
"""Files sent at once. Few, since whoever has received one sends it too: a file reaches many devices in few rounds."""

_MAX_HEAD_BYTES = 1 << 15  # the longest path, percent-encoded, and some headers
_BLOCK_BYTES = 1 << 20
_PAUSE_S = 0.25
_SILENCE_S = 30.0  # after which a client that has shown the token, and does not receive, is disconnected
_RETRY_S = {FileStatus.MEASURES: 5}


class ModelServer:
    """Serves from its construction to ``close``. ``is_measuring`` is called often, from several threads."""

    def __init__(
        self, folder: Path, token: str, is_measuring: Callable[[], bool], host: str = "0.0.0.0", port: int = 0
    ) -> None:
        """``folder``: this device's store of model files. ``port`` 0: any. Raises OSError, ValueError for no token."""
        if not token:
            raise ValueError("a model server needs a token")
        self._token = token.encode()
        self._is_measuring = is_measuring
        self._closed = threading.Event()
        self._slots = threading.BoundedSemaphore(MAX_TRANSFERS)
        # Beside the semaphore, since its count cannot be read.
        self._transfers = 0
        self._counting = threading.Lock()
        self.catalogue = Catalogue(folder, is_measuring, self.pause)
        self._server = _HttpServer((host, port), self)
        threading.Thread(target=self._serve, args=(folder,), name="model-server", daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def transfers(self) -> int:
        """Files that are being sent now, paused ones too."""
        return self._transfers

    def close(self) -> None:
        """Ends the server; a transfer ends with its current block."""
        if not self._closed.is_set():
            self._closed.set()
            self._server.shutdown()
            self._server.server_close()

    def _serve(self, folder: Path) -> None:
        # On this thread: a large store takes long, and the call that starts the server must not wait for it.
        share_store(folder)
        self._server.serve_forever(poll_interval=0.1)

    def is_authorised(self, authorization: str | None) -> bool:
        sent = (authorization or "").encode("latin-1", "replace")
        # In constant time: how long the answer takes must not reveal how much of a guess is right.
        return hmac.compare_digest(sent, b"Bearer " + self._token)

    def pause(self) -> bool:
        """Blocks while a benchmark is measured. False where the server is being closed."""
        while self._is_measuring() and not self._closed.is_set():
            self._closed.wait(_PAUSE_S)
        return not self._closed.is_set()

    def contents(self, sha256: str) -> Availability:
        available = self.catalogue.by_contents(sha256)
        # Only a look: the place itself is taken by the GET, which may come too late for it.
        full = available.status is FileStatus.HAS and self._transfers >= MAX_TRANSFERS
        return Availability(FileStatus.SERVES, available.bytes_so_far) if full else available

    def send(self, connection: socket.socket, file: BinaryIO, start: int, count: int) -> None:
        """``count`` bytes from ``start`` on, from the kernel's pages to the network card where the system can."""
        while count > 0 and self.pause():
            sent = connection.sendfile(file, start, min(count, _BLOCK_BYTES))
            if not sent:  # the file was truncated meanwhile: the client notices that bytes are missing
                return
            start, count = start + sent, count - sent

    def begin_transfer(self) -> bool:
        # Without waiting: a client that is refused asks the next device.
        begun = self._slots.acquire(blocking=False)
        with self._counting:
            self._transfers += begun
        return begun

    def end_transfer(self) -> None:
        with self._counting:
            self._transfers -= 1
        self._slots.release()


class _HttpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Not ``http.server.HTTPServer``, which asks the name service for the host's own name first."""

    allow_reuse_address = sys.platform != "win32"  # there it would let another program take the port
    daemon_threads = True
    request_queue_size = 128  # of connections that are not accepted yet: five strangers must not fill it

    def __init__(self, address: tuple[str, int], models: ModelServer) -> None:
        self.models = models
        self.admission: Admission[socket.socket] = Admission()
        super().__init__(address, _RequestHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        # Bounded, since each connection has a thread, and a crowd would disturb this device.
        crowded_out = self.admission.accept(request, client_address[0], time.monotonic())
        if crowded_out is not None:
            _cut(crowded_out)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.admission.remove(request)

    def service_actions(self) -> None:
        """``serve_forever`` calls it several times a second."""
        for connection in self.admission.overdue(time.monotonic()):
            _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs no client that disconnects. Nothing of a request is ever logged: it may hold a path of the user's."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _cut(connection: socket.socket) -> None:
    """Ends the reads and writes of the connection's thread, which then closes it."""
    with suppress(OSError):  # it has ended meanwhile
        connection.shutdown(socket.SHUT_RDWR)


class _RequestHandler(BaseHTTPRequestHandler):
    server: _HttpServer
    server_version, sys_version = "orchestrate", ""
    # ``StreamRequestHandler`` sets it on the socket.
    timeout = SHOW_S
    _is_admitted = False

    def log_message(self, *_: object) -> None:
        """Logs nothing: a request may hold a path of the user's."""

    def handle_one_request(self) -> None:
        try:
            head = self._head()
        except TimeoutError:
            head = None
        if head is None:
            self.close_connection = True
            return
        self.rfile.close()
        self.rfile = io.BytesIO(head)
        super().handle_one_request()

    def _head(self) -> bytes | None:
        """Request line and headers. None, if they are not complete within _MAX_HEAD_BYTES."""
        head = bytearray()
        while len(head) < _MAX_HEAD_BYTES:
            line = self.rfile.readline(_MAX_HEAD_BYTES - len(head))
            if not line:
                return None
            head += line
            if line in (b"\r\n", b"\n"):
                return bytes(head)
        return None

    def parse_request(self) -> bool:
        """Checks the token before all else: without it not even the existence of a file or method is revealed."""
        if not super().parse_request():
            return False
        if not self.server.models.is_authorised(self.headers.get("Authorization")):
            self._refuse()
            return False
        self._is_admitted = self.server.admission.show(self.connection)
        self.connection.settimeout(_SILENCE_S)
        return self._is_admitted

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The standard library's answers to bad requests, which quote them, are for those with the token."""
        if self._is_admitted:
            super().send_error(code, message, explain)
        else:
            self._refuse()

    def _refuse(self) -> None:
        self.request_version = "HTTP/1.0"  # to one that names no version nothing would be sent
        self._send_head(401, {"WWW-Authenticate": "Bearer"}, 0)

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        models = self.server.models
        where = urlsplit(self.path)
        kind, _, name = where.path.lstrip("/").partition("/")
        if kind == "sha256" and HEX64.fullmatch(name):
            self._reply_with_file(models.contents(name), name)
        elif where.path == "/find":
            self._reply(self._look_up(models.catalogue, where.query))
        else:
            self._reply(ABSENT)

    def _look_up(self, catalogue: Catalogue, query: str) -> Availability:
        try:
            asked = {name: values[0] for name, values in parse_qs(query, errors="strict", max_num_fields=4).items()}
        except ValueError:
            return ABSENT
        if "path" in asked:
            return catalogue.at_path(asked["path"], asked.get("mmproj"))
        # The key becomes the name of a file: nothing but 64 hex digits is let through.
        key = asked.get("url_key", "")
        return catalogue.by_address(key) if HEX64.fullmatch(key) else ABSENT

    def _reply(self, available: Availability) -> None:
        body = files_to_json(available.files) if available.status is FileStatus.HAS else b""
        self._send_head(HTTP_STATUS[available.status], _headers_of(available), len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reply_with_file(self, available: Availability, sha256: str) -> None:
        models = self.server.models
        if available.status is not FileStatus.HAS or available.path is None:
            self._reply(available)
        elif self.command == "HEAD":
            self._send_head(200, _headers_of(available), available.bytes_so_far)
        elif not models.begin_transfer():
            self._reply(Availability(FileStatus.SERVES, available.bytes_so_far))
        else:
            try:
                self._send_file(available, sha256)
            finally:
                models.end_transfer()

    def _send_file(self, available: Availability, sha256: str) -> None:
        assert available.path is not None
        try:
            file = available.path.open("rb")
        # Deleted since the catalogue was asked.
        except OSError:
            self._reply(ABSENT)
            return
        with file:
            size = available.bytes_so_far
            headers = {**_headers_of(available), "Content-Type": "application/octet-stream", "ETag": f'"{sha256}"'}
            start, end = range_of(self.headers.get("Range"), size)
            # Of an empty file there is no range to refuse: it is sent whole.
            if start >= size > 0:
                self._send_head(416, {**headers, "Content-Range": f"bytes */{size}"}, 0)
                return
            status = 200
            if (start, end) != (0, size):
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            # A file that is replaced meanwhile is sent as it was: the old one stays open. One that is written in place
            # reaches the client with another hash, and is not kept there.
            self._send_head(status, headers, end - start)
            with suppress(OSError):  # the client went away
                self.server.models.send(self.connection, file, start, end - start)

    def _send_head(self, status: int, headers: dict[str, str], length: int) -> None:
        # A body that was cut short would swallow the head of the next answer.
        self.close_connection = True
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        # The body goes past ``wfile``, straight into the socket: the head must be out before it.
        self.wfile.flush()


def _headers_of(available: Availability) -> dict[str, str]:
    headers = {STATE: available.status.value, BYTES: str(available.bytes_so_far)}
    if available.beat:
        headers[BEAT] = available.beat
    if HTTP_STATUS[available.status] in (202, 503):
        headers["Retry-After"] = str(_RETRY_S.get(available.status, 1))
    return headers
