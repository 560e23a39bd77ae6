"""A loopback HTTP server that answers each route with recorded bytes, and notes what it was asked.

``with RecordedServer({"GET /health": json_answer({"status": "ok"})}) as server``, then ``server.url`` and
``server.asked``. A route is the method and the path without its query; a query that must be there is written too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

HELD_S = 60.0  # a held answer goes out at the latest then: a test that hangs shall end


@dataclass(frozen=True, slots=True)
class Answer:
    """``pieces`` are sent one by one, in chunks of HTTP's. ``held``: not before the server ends, or ``release``."""

    pieces: tuple[bytes, ...] = ()
    status: int = 200
    content_type: str = "application/json"
    held: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str  # without its query
    query: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def json(self) -> Any:
        """The body, {} where there is none."""
        return json.loads(self.body or b"{}")


Route = Answer | Sequence[Answer] | Callable[[Asked], Answer]
"""What a route answers: the same each time; one after the other, then the last again; or worked out."""

Routes = Mapping[str, Route]

NOT_FOUND = Answer((b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}',), 404)


def json_answer(content: Any, status: int = 200) -> Answer:
    return Answer((json.dumps(content).encode(),), status)


def text_answer(content: str, status: int = 200, content_type: str = "text/plain") -> Answer:
    return Answer((content.encode(),), status, content_type)


def sse_answer(*events: Any, done: bool = False) -> Answer:
    """A stream of ``data:`` events, one a piece; a str goes as it stands (with ``event:`` lines of its own)."""
    pieces = [each if isinstance(each, str) else f"data: {json.dumps(each)}\n\n" for each in events]
    pieces += ["data: [DONE]\n\n"] if done else []
    return Answer(tuple(piece.encode() for piece in pieces), content_type="text/event-stream")


def lines_answer(*lines: Any, status: int = 200) -> Answer:
    """A stream of JSON lines, one a piece."""
    pieces = tuple(json.dumps(each).encode() + b"\n" for each in lines)
    return Answer(pieces, status, "application/x-ndjson")


HOLD = Answer((b"{}",), held=True)
"""No answer until the test is over: a load that takes long."""


@dataclass(slots=True)
class _State:
    routes: Routes
    asked: list[Asked] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    heard: threading.Condition = field(default_factory=threading.Condition)
    release: threading.Event = field(default_factory=threading.Event)


class RecordedServer:
    """Serves from ``__enter__`` to ``__exit__``, each connection in a thread; a route that is not there is a 404."""

    def __init__(self, routes: Routes) -> None:
        self._state = state = _State(dict(routes))

        class Handler(_Handler):
            shared = state

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="recorded-server", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def asked(self) -> list[Asked]:
        return list(self._state.asked)

    def asked_of(self, route: str) -> list[Asked]:
        return [each for each in self.asked if each.route == route.partition("?")[0]]

    def wait_for(self, route: str, timeout_s: float = 10.0) -> Asked:
        """The first request of a route, when it has come. Raises AssertionError."""
        with self._state.heard:
            there = self._state.heard.wait_for(lambda: bool(self.asked_of(route)), timeout_s)
        assert there, f"nobody asked {route}; asked was {[each.route for each in self.asked]}"
        return self.asked_of(route)[0]

    def answer(self, route: str, answer: Route) -> None:
        """From now on."""
        self._state.routes = {**self._state.routes, route: answer}

    def release(self) -> None:
        """Lets all held answers go."""
        self._state.release.set()

    def __enter__(self) -> RecordedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends as a server that is killed: its port refuses. May be called twice."""
        self.release()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    shared: _State
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command or "", path, query, headers, body)
        with self.shared.heard:
            self.shared.asked.append(asked)
            self.shared.heard.notify_all()
        answer = self._choose(asked)
        if body and "json" not in headers.get("content-type", ""):  # as servers on Node.js do, which read nothing then
            answer = text_answer("Unsupported Media Type", 415)
        if answer.held:
            self.shared.release.wait(HELD_S)
        self.close_connection = True
        with suppress(OSError):  # the client went away
            self._send(answer)

    def _choose(self, asked: Asked) -> Answer:
        routes = self.shared.routes
        name = f"{asked.route}?{asked.query}" if f"{asked.route}?{asked.query}" in routes else asked.route
        route = routes.get(name, NOT_FOUND)
        if isinstance(route, Answer):
            return route
        if callable(route):
            return route(asked)
        with self.shared.lock:
            place = self.shared.times.get(name, 0)
            self.shared.times[name] = place + 1
        return route[min(place, len(route) - 1)]

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Connection", "close")
        streamed = len(answer.pieces) > 1
        if streamed:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(sum(map(len, answer.pieces))))
        self.end_headers()
        for piece in answer.pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if streamed else piece)
            self.wfile.flush()
        if streamed:
            self.wfile.write(b"0\r\n\r\n")
