"""A loopback ComfyUI: answers its routes, and plays recorded messages over a real websocket.

``with ComfyServer([run("second")]) as server``: each prompt that is posted gets the next script; the last one is
played again. A prompt's id is that of its recording.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.server import ServerProtocol

RECORDED = Path(__file__).parents[1] / "recordings" / "comfyui" / "runs.json"
WAIT_S = 30.0  # what a script waits for comes within that, or it ends: a test that hangs shall end


class Control(Enum):
    """What a script does beside sending."""

    CLOSE = auto()  # a good end of the websocket
    DROP = auto()  # the connection breaks
    VANISH = auto()  # so does the whole server
    HOLD = auto()  # nothing more, until the server ends
    AWAIT_INTERRUPT = auto()


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes on the socket that are no frame of the websocket's."""

    data: bytes


Action = str | bytes | Raw | Control
"""A text frame, a binary one, ..."""


@dataclass(frozen=True, slots=True)
class Script:
    """``status`` 0: the graph is taken, and no answer comes."""

    answer: Any
    status: int = 200
    actions: tuple[Action, ...] = ()
    history: Any = None

    @property
    def prompt_id(self) -> str:
        return str(self.answer.get("prompt_id"))

    def then(self, *actions: Action) -> Script:
        return replace(self, actions=(*self.actions, *actions))

    def until(self, kind: str, times: int = 1) -> Script:
        """Cut after the message of ``kind`` that comes ``times``."""
        places = [at for at, each in enumerate(self.actions) if isinstance(each, str) and _kind(each) == kind]
        return replace(self, actions=self.actions[: places[times - 1] + 1])

    def without(self, *kinds: str) -> Script:
        kept = (each for each in self.actions if not isinstance(each, str) or _kind(each) not in kinds)
        return replace(self, actions=tuple(kept))


def _kind(text: str) -> str:
    return str(json.loads(text)["type"])


@cache
def recorded() -> Any:
    return json.loads(RECORDED.read_text("utf-8"))


def timed(name: str) -> list[tuple[float, Action]]:
    """The messages of a recorded run with their times, s from the sending."""
    messages = recorded()["runs"][name]["messages"]
    return [(at_s, b"\0\0\0\1\0\0\0\1preview" if "binary" in each else json.dumps(each)) for at_s, each in messages]


def run(name: str) -> Script:
    """A recorded run, without its times."""
    found = recorded()["runs"][name]
    actions = tuple(action for _, action in timed(name))
    return Script(found["answer"], found["status"], actions, found.get("history"))


class ComfyServer:
    """``asked`` notes method, path and body of each request; ``stats`` is what ``/system_stats`` answers."""

    def __init__(self, scripts: Sequence[Script] = (), stats: Iterable[Any] = ()) -> None:
        self.scripts = list(scripts)
        self.stats = list(stats) or [recorded()["system_stats"]]
        self.asked: list[tuple[str, Any]] = []
        self.played: Script | None = None
        self.posted, self.interrupted, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"shared": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def bodies(self, route: str) -> list[Any]:
        with self.lock:
            return [body for asked, body in self.asked if asked == route]

    def vanish(self) -> None:
        self._server.socket.close()

    def __enter__(self) -> ComfyServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.posted.set()
        self.interrupted.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    shared: ComfyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._note(f"GET {path}", None)
        shared = self.shared
        if path == "/ws":
            with suppress(OSError):  # the client went away
                self._websocket()
        elif path == "/system_stats":
            with shared.lock:
                stats = shared.stats.pop(0) if len(shared.stats) > 1 else shared.stats[0]
            self._answer(200, stats)
        elif path.startswith("/history/"):
            self._answer(200, (shared.played.history if shared.played else None) or {})
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self._note(f"POST {self.path}", body)
        if self.path == "/prompt":
            with self.shared.lock:
                scripts = self.shared.scripts
                self.shared.played = script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            if script.status:
                self._answer(script.status, script.answer)
            self.close_connection = True
            self.shared.posted.set()
            return
        self._answer(200 if self.path in ("/free", "/queue", "/interrupt") else 404, None)
        if self.path == "/interrupt":
            self.shared.interrupted.set()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _note(self, asked: str, body: Any) -> None:
        with self.shared.lock:
            self.shared.asked.append((asked, body))

    def _answer(self, status: int, content: Any) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data)
        self.close_connection = True

    def _websocket(self) -> None:
        self.close_connection = True
        protocol = ServerProtocol(max_size=None)
        protocol.receive_data(_request_bytes(self.path, dict(self.headers)))
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        self._flush(protocol)
        self.shared.posted.wait(WAIT_S)
        self.shared.posted.clear()
        for action in self.shared.played.actions if self.shared.played else ():
            if isinstance(action, Control):
                self._do(action, protocol)
            elif isinstance(action, Raw):
                self.wfile.write(action.data)
            else:
                (protocol.send_text if isinstance(action, str) else protocol.send_binary)(
                    action.encode() if isinstance(action, str) else action
                )
                self._flush(protocol)
        self._linger(protocol)

    def _do(self, control: Control, protocol: ServerProtocol) -> None:
        if control is Control.AWAIT_INTERRUPT:
            self.shared.interrupted.wait(WAIT_S)
        elif control is Control.HOLD:
            self.shared.ended.wait(WAIT_S)
        elif control is Control.CLOSE:
            protocol.send_close(1001, "going away")
            self._flush(protocol)
        else:
            if control is Control.VANISH:
                self.shared.vanish()
            raise ConnectionAbortedError

    def _flush(self, protocol: ServerProtocol) -> None:
        self.wfile.write(b"".join(protocol.data_to_send()))
        self.wfile.flush()

    def _linger(self, protocol: ServerProtocol) -> None:
        """Until the client has closed."""
        self.connection.settimeout(WAIT_S)
        while data := self.connection.recv(65536):
            protocol.receive_data(data)
            self._flush(protocol)
            if protocol.close_expected():
                return


def _request_bytes(path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()
